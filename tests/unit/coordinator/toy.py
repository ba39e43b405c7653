"""A target and a drafter without models, where every token is a function of the tokens before it, and the fakes at the
coordinator's seams that play them.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from coordinator.admission import Admission
from coordinator.generation import Generation, Target
from coordinator.patience import Patience
from coordinator.pipeline import DrafterStream, OpenDrafter, OpenVerifier, VerifierStream
from coordinator.request import Defaults
from coordinator.tokenizer import Tokenizer
from sybil_engine.core.completion import Delta
from sybil_engine.core.draft_tree import DraftTree
from sybil_engine.core.errors import SybilError, Unavailable
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.plan import DraftPlan
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.session import Advance, Commit, SessionOpen
from sybil_engine.core.types import (
    Block,
    CommittedToken,
    FinishReason,
    ModelDescription,
    PassTimings,
    Speculation,
    TokenOrigin,
)

VOCABULARY_SIZE = 260
END_TOKEN = 256
CONTEXT_TOKENS = 1024
HASTY = Patience(reopen_s=0.2, attempts=3, first_pause_s=0.001, most_pause_s=0.01)

Plans = Callable[[int], DraftPlan]
"""The plan in each commit, by how many came before it."""


def ahead(commits: int) -> DraftPlan:
    """Draft up to 8 tokens ahead."""
    return DraftPlan(Speculation.PIPELINED, budget=8)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop of its own; no task may be left when it ends."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        async def checked() -> None:
            await test(*arguments, **named)
            # Cancelled tasks end in the loop's next rounds.
            for _ in range(10):
                await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks are left: {left}"

        asyncio.run(checked())

    return run


def toy_tokenizer_json() -> bytes:
    """One token for each byte, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer.to_str().encode()


def toy_description(model_id: str = "toy-target", **changes: Any) -> ModelDescription:
    values: dict[str, Any] = {
        "model_id": model_id,
        "architecture": "Toy",
        "parameters": 0,
        "vocabulary_size": VOCABULARY_SIZE,
        "tokenizer_fingerprint": "toy",
        "tokenizer_parts": {"vocabulary": "v", "merges": "m"},
        "end_token_ids": (END_TOKEN,),
        "begin_token_id": None,
        "context_tokens": CONTEXT_TOKENS,
        "dtype": "float32",
        "device": "cpu",
        "max_sessions": 4,
        "ready": True,
    }
    return ModelDescription(**(values | changes))


def toy_target(**changes: Any) -> Target:
    return Target(toy_description(**changes), Tokenizer(toy_tokenizer_json()))


def toy_token(seed: int, prefix_fingerprint: int) -> int:
    """The target's token after a prefix: printable ASCII in the toy tokenizer."""
    return 33 + (prefix_fingerprint ^ (seed * 0x9E3779B97F4A7C15)) % 60


def toy_completion(prompt: tuple[int, ...], seed: int, max_tokens: int) -> tuple[int, ...]:
    """What the toy target generates."""
    ledger = Ledger(prompt, len(prompt))
    for _ in range(max_tokens):
        _append(ledger, toy_token(seed, ledger.fingerprint(len(ledger))))
    return tuple(ledger[len(prompt) :])


def judged(opening: SessionOpen, ledger: Ledger, drafted: Sequence[int], plan: DraftPlan, pass_ns: int = 0) -> Commit:
    """What a pass of the toy target commits after judging a window."""
    scratch = Ledger(ledger[:], ledger.prompt_tokens)
    reason: FinishReason | None = None
    accepted = 0
    while True:
        token = toy_token(opening.seed, scratch.fingerprint(len(scratch)))
        _append(scratch, token)
        if token in opening.stop_token_ids:
            reason = FinishReason.STOP
        elif len(scratch) >= opening.max_position:
            reason = FinishReason.LENGTH
        hit = accepted < len(drafted) and drafted[accepted] == token
        accepted += hit
        if reason or not hit:
            break
    origins = (TokenOrigin.DRAFTED,) * accepted + (TokenOrigin.TARGET,) * (len(scratch) - len(ledger) - accepted)
    logprob = -0.5 if opening.logprobs else None
    return Commit(
        position=len(ledger),
        prefix_fingerprint=ledger.fingerprint(len(ledger)),
        tokens=tuple(CommittedToken(*pair, logprob) for pair in zip(scratch[len(ledger) :], origins, strict=True)),
        judged=len(drafted),
        accepted=accepted,
        plan=plan,
        timings=PassTimings(forward_ns=pass_ns, gap_ns=1000),
        finish_reason=reason,
    )


class ToyVerification:
    """The verifier's side of one session."""

    def __init__(self, opening: SessionOpen, plans: Plans = ahead, judge: Callable[..., Commit] = judged) -> None:
        """
        Args:
            plans: what the toy's rule decides; off and in lockstep it is always what the session opened with.
            judge: see `judged`.
        """
        self._opening = opening
        self._plans = plans
        self._judge = judge
        self._passes = 0
        self._plan = opening.plan
        self._ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self._tree = DraftTree(self._ledger)

    @property
    def waits(self) -> bool:
        """Whether the next pass waits for drafted tokens: under lockstep, until its window is full."""
        room_tokens = self._opening.max_position - len(self._ledger) - 1
        return self._in_lockstep and len(self._tree.trunk) < min(self._plan.hold_until, room_tokens)

    @property
    def _in_lockstep(self) -> bool:
        return self._opening.plan.speculation is Speculation.LOCKSTEP

    def offer(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self._tree.graft(block)

    def drafted(self) -> tuple[int, ...]:
        """The window that a pass which starts now judges."""
        window_tokens = self._plan.hold_until if self._in_lockstep else self._opening.window_tokens or 4
        return tuple(node.token_id for node in self._tree.trunk[:window_tokens])

    def commit(self, drafted: Sequence[int], pass_ns: int = 0) -> Commit:
        """End the pass that judges a window."""
        if self._opening.plan.speculation not in (Speculation.OFF, Speculation.LOCKSTEP):
            self._plan = self._plans(self._passes)
        commit = self._judge(self._opening, self._ledger, drafted, self._plan, pass_ns)
        self._ledger.append(commit)
        self._tree.advance()
        self._passes += 1
        return commit


class ToyDraft:
    """The drafter's side of one session: it guesses right six times of seven."""

    def __init__(self, opening: SessionOpen) -> None:
        self._seed = opening.seed
        self._plan = opening.plan
        self._ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self._tip = Ledger(opening.token_ids, opening.prompt_tokens)
        self._changed = asyncio.Event()

    def advance(self, advance: Advance) -> None:
        self._ledger.append(advance)
        self._plan = advance.plan
        if self._tip[: len(self._ledger)] != self._ledger[:]:
            self._tip = Ledger(self._ledger[:], self._ledger.prompt_tokens)
        self._changed.set()

    @property
    def wants_block(self) -> bool:
        """Whether the budget allows another token."""
        return len(self._tip) - len(self._ledger) < self._plan.budget

    async def next_block(self, draft_ns: int = 0) -> Block:
        """Wait until the budget allows another token."""
        while not self.wants_block:
            self._changed.clear()
            await self._changed.wait()
        position = len(self._tip)
        fingerprint = self._tip.fingerprint(position)
        token = toy_token(self._seed, fingerprint) - (fingerprint % 7 == 0)
        _append(self._tip, token)
        return Block(position, fingerprint, (token,), draft_ns=draft_ns)


@dataclass
class FakeVerifier:
    """A verifier at the pipeline's seam.

    Attributes:
        breaks_with: raised instead of the commit after `breaks_after` commits.
        repeats: how often each commit is sent.
        skips: the number of a commit that is never sent.
        plans: what its rule decides.
        commits: those that were sent, on all streams.
    """

    breaks_after: int | None = None
    breaks_with: SybilError | None = None
    repeats: int = 1
    skips: int | None = None
    plans: Plans = ahead
    openings: list[SessionOpen] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    open_streams: int = 0

    @contextmanager
    def session(self) -> Iterator["FakeVerifierStream"]:
        self.open_streams += 1
        try:
            yield FakeVerifierStream(self)
        finally:
            self.open_streams -= 1


class FakeVerifierStream:
    def __init__(self, verifier: FakeVerifier) -> None:
        self._verifier = verifier
        self._opened: asyncio.Future[ToyVerification] = asyncio.get_running_loop().create_future()

    async def open(self, opening: SessionOpen) -> None:
        self._verifier.openings.append(opening)
        self._opened.set_result(ToyVerification(opening, self._verifier.plans))

    async def offer(self, blocks: Sequence[Any]) -> None:
        assert self._opened.done(), "a block came before the opening"
        assert blocks, "an empty message"
        self._verifier.blocks += blocks
        self._opened.result().offer(blocks)

    async def commits(self) -> AsyncIterator[Commit]:
        verification = await self._opened
        sent = 0
        while True:
            await _rounds(8)
            if self._verifier.breaks_with and sent == self._verifier.breaks_after:
                raise self._verifier.breaks_with
            # The patience of a lockstep verifier ends as well: by then its drafter is lost.
            for _ in range(200):
                if not verification.waits:
                    break
                await _rounds(1)
            commit = verification.commit(verification.drafted())
            if sent != self._verifier.skips:
                for _ in range(self._verifier.repeats):
                    self._verifier.commits.append(commit)
                    yield commit
            sent += 1
            if commit.finish_reason:
                return


@dataclass
class FakeDrafter:
    """A drafter at the pipeline's seam.

    Attributes:
        breaks_with: raised instead of a block after `breaks_after` blocks.
        stuck: never drafts, and never takes a commit.
        at_once: how many blocks are sent at a time, where the budget allows as many.
    """

    breaks_after: int = 0
    breaks_with: SybilError | None = None
    stuck: bool = False
    at_once: int = 1
    address: str = "fake:1"
    openings: list[SessionOpen] = field(default_factory=list)
    advances: list[Advance] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    open_streams: int = 0

    @contextmanager
    def session(self, taken: Collection[str] = ()) -> Iterator["FakeDrafterStream"]:
        if self.address in taken:
            raise Unavailable("there is no other")
        self.open_streams += 1
        try:
            yield FakeDrafterStream(self)
        finally:
            self.open_streams -= 1


class FakeDrafterStream:
    def __init__(self, drafter: FakeDrafter) -> None:
        self._drafter = drafter
        self.address = drafter.address
        self._opened: asyncio.Future[ToyDraft] = asyncio.get_running_loop().create_future()

    async def open(self, opening: SessionOpen) -> None:
        self._drafter.openings.append(opening)
        self._opened.set_result(ToyDraft(opening))

    async def advance(self, advances: Sequence[Advance]) -> None:
        assert advances, "an empty message"
        if self._drafter.stuck:
            await asyncio.Event().wait()
        for advance in advances:
            self._drafter.advances.append(advance)
            # A gap or a contradiction raises here.
            (await self._opened).advance(advance)

    async def blocks(self) -> AsyncIterator[Sequence[Block]]:
        draft = await self._opened
        sent = 0
        while True:
            if self._drafter.stuck:
                await asyncio.Event().wait()
            if self._drafter.breaks_with and sent >= self._drafter.breaks_after:
                raise self._drafter.breaks_with
            await _rounds(1)
            blocks = [await draft.next_block()]
            while len(blocks) < self._drafter.at_once and draft.wants_block:
                blocks.append(await draft.next_block())
            self._drafter.blocks += blocks
            sent += len(blocks)
            yield blocks


@contextmanager
def nobody(taken: Collection[str] = ()) -> Iterator[Any]:
    """Stands for a service that is not there."""
    raise Unavailable("nobody is there")
    yield


def one_after_the_other(*services: FakeVerifier | FakeDrafter) -> Any:
    """Opens the first one, then the second one, and so on; the last one for ever."""
    turn = 0

    def session(taken: Collection[str] = ()) -> AbstractContextManager[Any]:
        nonlocal turn
        service = services[min(turn, len(services) - 1)]
        turn += 1
        return service.session()

    return session


def the_first_free(*drafters: FakeDrafter) -> OpenDrafter:
    """Opens the first drafter whose address is not taken."""

    def session(taken: Collection[str]) -> AbstractContextManager[DrafterStream]:
        free = [each for each in drafters if each.address not in taken]
        return free[0].session() if free else nobody()

    return session


@dataclass
class FakeServices:
    """Drafters and verifiers at the generation core's seam: no port, no routing.

    Attributes:
        asked_for: the targets that verifiers were asked for.
    """

    open_verifier: OpenVerifier
    open_drafter: OpenDrafter = nobody
    target: Target = field(default_factory=toy_target)
    shares_processors: bool = False
    drafters: int = 1
    proposers: tuple[str, ...] = ()
    asked_for: list[Target] = field(default_factory=list)

    def verifier(self, target: Target) -> AbstractContextManager[VerifierStream]:
        self.asked_for.append(target)
        return self.open_verifier()

    def drafter(self, taken: Collection[str]) -> AbstractContextManager[DrafterStream]:
        return self.open_drafter(taken)


class Scene:
    """A generation core and the fakes below it."""

    PROMPT = (40, 41, 42)
    SEED = 7
    TOKENS = 60

    def __init__(
        self,
        verifier: FakeVerifier | None = None,
        drafter: FakeDrafter | None = None,
        slots: int = 1,
        max_waiting: int = 0,
    ) -> None:
        self.verifier = verifier or FakeVerifier()
        self.drafter = drafter or FakeDrafter()
        self.services = FakeServices(self.verifier.session, self.drafter.session)
        self.admission = Admission(max_waiting)
        self.admission.resize(slots)
        self.generation = Generation(self.services, self.admission, Defaults(), HASTY)

    def stream(self, **asked: Any) -> AsyncGenerator[Delta, None]:
        """Complete the prompt; `asked` overrides what the request says."""
        values: dict[str, Any] = {"prompt": self.PROMPT, "seed": self.SEED, "max_tokens": self.TOKENS}
        return self.generation.stream(GenerationRequest(**(values | asked)))

    async def deltas(self, **asked: Any) -> list[Delta]:
        async with aclosing(self.stream(**asked)) as stream:
            return [delta async for delta in stream]

    @property
    def idle(self) -> bool:
        """Whether no stream is open, no place is taken, and nobody waits for one."""
        in_use = self.verifier.open_streams + self.drafter.open_streams
        return not in_use + self.admission.running + self.admission.waiting


async def _rounds(count: int) -> None:
    """Let everybody else go on for as many rounds of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def _append(ledger: Ledger, token: int) -> None:
    ledger.append(Advance(len(ledger), ledger.fingerprint(len(ledger)), (token,)))
