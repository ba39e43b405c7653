"""The generation core: a request in, deltas out. Every interface to clients is a thin adapter over it."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from coordinator.admission import Admission, Claim
from coordinator.patience import Patience
from coordinator.pipeline import DrafterStream, Pipeline, VerifierStream
from coordinator.request import CheckedRequest, Defaults, check
from coordinator.request_metrics import RequestMetrics
from coordinator.tokenizer import Tokenizer
from coordinator.transcript import Passage, Transcript
from coordinator.usage import Meter
from sybil_engine.core.completion import Delta, Ending
from sybil_engine.core.errors import SybilError
from sybil_engine.core.plan import first_plan
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import FinishReason, ModelDescription, Speculation

logger = logging.getLogger(__name__)

# Passages that wait for the client; when there are more, the session waits.
_MOST_PASSAGES = 64


@dataclass(frozen=True, slots=True)
class Target:
    """What all live verifiers serve."""

    description: ModelDescription
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Caller:
    """What a transport knows of a request's sender.

    Attributes:
        name: who sent it, unless the request says.
        deadline_s: when the answer must be there, by `time.monotonic`.
    """

    name: str = ""
    deadline_s: float = math.inf


class Services(Protocol):
    """The drafters and verifiers that sessions use."""

    @property
    def target(self) -> Target:
        """What the verifiers serve; raises Unavailable until one has answered."""

    @property
    def shares_processors(self) -> bool:
        """Whether drafting takes time from verify passes."""

    def verifier(self, target: Target) -> AbstractContextManager[VerifierStream]:
        """A stream to a verifier of this target."""

    @property
    def proposers(self) -> Collection[str]:
        """The names of all drafters that need no model."""

    @property
    def drafters(self) -> int:
        """How many drafters can be used now."""

    def drafter(self, taken: Collection[str]) -> AbstractContextManager[DrafterStream]:
        """A stream to a drafter at none of these addresses."""


class Generation:
    """Checks requests, waits for a place, runs sessions, and turns their tokens into text."""

    def __init__(
        self,
        services: Services,
        admission: Admission,
        defaults: Defaults,
        patience: Patience,
        metrics: RequestMetrics | None = None,
    ) -> None:
        self._services = services
        self._admission = admission
        # Of the AUTO sessions that run.
        self._adaptive: set[Meter] = set()
        self._defaults = defaults
        self._patience = patience
        self._metrics = metrics or RequestMetrics()

    async def stream(self, request: GenerationRequest, caller: Caller = Caller()) -> AsyncGenerator[Delta, None]:
        """Complete a prompt. Closing the generator ends the session and frees all that it holds.

        Raises:
            InvalidRequest, ContextExceeded: a value is out of range.
            Unavailable, Exhausted: nobody can serve it now, or not before its deadline.
            SessionError, PairMismatch: the services fail, or do not belong together.
        """
        with self._metrics.request() as meter:
            async with aclosing(self._deltas(request, caller, meter)) as deltas:
                async for delta in deltas:
                    yield delta

    async def _deltas(self, request: GenerationRequest, caller: Caller, meter: Meter) -> AsyncGenerator[Delta, None]:
        target = self._services.target
        checked = await check(request, target.description, target.tokenizer, self._defaults, self._services.proposers)
        passages: asyncio.Queue[Passage | Exception] = asyncio.Queue(_MOST_PASSAGES)
        # The session runs ahead of a client that reads slowly, as far as there is room for its passages.
        claim = _claim(request, checked, caller)
        session = asyncio.create_task(self._run(checked, claim, target, meter, passages))
        try:
            while True:
                passage = await passages.get()
                if isinstance(passage, Exception):
                    raise passage
                meter.finish_reason = passage.finish_reason
                ending = _ending(checked, passage.finish_reason, meter) if passage.finish_reason else None
                yield Delta(passage.text, passage.tokens, ending)
                if ending:
                    return
        finally:
            session.cancel()
            await asyncio.wait((session,))

    async def _run(
        self,
        request: CheckedRequest,
        claim: Claim,
        target: Target,
        meter: Meter,
        passages: "asyncio.Queue[Passage | Exception]",
    ) -> None:
        """Run a session and put its passages, the last with a finish reason; or put an error."""
        opening = request.opening
        try:
            transcript = Transcript(target.tokenizer.detokenizer(request.prompt), request.stops, opening.stop_token_ids)
            ended = transcript.resume(request.resumed) or (transcript.end() if request.complete else None)
            if ended:
                await passages.put(ended)
                return
            async with self._admission.place(claim) as deliver:
                meter.admitted()
                if request.speculation is Speculation.AUTO and opening.drafts_by_model:
                    self._adaptive.add(meter)
                async with aclosing(self._pipeline(request, target, meter).run()) as session:
                    async for new in session:
                        deliver(len(new.tokens))
                        for passage in transcript.take(new):
                            meter.delivered(len(passage.tokens))
                            await passages.put(passage)
                            if passage.finish_reason:
                                return
        except Exception as error:
            if not isinstance(error, SybilError):
                logger.exception("session %s failed", opening.session_id)
            await passages.put(error)
        finally:
            self._adaptive.discard(meter)

    @property
    def _drafts_pay(self) -> bool:
        """Whether most of the AUTO sessions that run are told to draft; so it is if there is none yet.

        A few may rest, or start without drafts.
        """
        drafting = [meter.way is not Speculation.OFF for meter in self._adaptive if meter.way]
        return 2 * sum(drafting) >= len(drafting)

    def _pipeline(self, request: CheckedRequest, target: Target, meter: Meter) -> Pipeline:
        opening, shares_processor = request.opening, self._services.shares_processors
        plan = first_plan(
            request.speculation,
            opening.window_tokens,
            by_model=opening.drafts_by_model,
            shares_processor=shares_processor,
            drafts_pay=self._drafts_pay,
        )
        return Pipeline(
            replace(opening, shares_processor=shares_processor, plan=plan),
            partial(self._services.verifier, target),
            self._services.drafter,
            meter,
            self._patience,
            min(request.drafters_per_session, max(1, self._services.drafters)),
        )


def _claim(request: GenerationRequest, checked: CheckedRequest, caller: Caller) -> Claim:
    opening = checked.opening
    given = len(opening.token_ids)
    # A user may not pass for a host.
    client = f"user {request.user}" if request.user else caller.name
    return Claim(client, opening.priority, given, opening.max_position - given, caller.deadline_s)


def _ending(request: CheckedRequest, finish_reason: FinishReason, meter: Meter) -> Ending:
    return Ending(
        finish_reason,
        request.opening.seed,
        request.speculation,
        meter.usage(request.opening.prompt_tokens),
        meter.passes,
        meter.reason,
        request.opening.acceptance_rule,
        request.opening.acceptance_parameter,
    )
