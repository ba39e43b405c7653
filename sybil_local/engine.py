"""What a program imports: one object that generates, from any thread, with or without `await`."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from enum import Enum
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import uvloop

from coordinator.admission import Admission
from coordinator.generation import Generation
from coordinator.patience import Patience
from coordinator.request import Defaults
from drafter_service.settings import DrafterSettings
from sybil_engine.core.completion import Completion, Delta
from sybil_engine.core.errors import InvalidRequest, Unavailable
from sybil_engine.core.model_choice import Dtype, draft_choice
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import AcceptanceRule, ModelDescription, SamplingParams, Speculation
from sybil_local import twins
from sybil_local.services import LocalServices
from verifier_service.settings import VerifierSettings

Result = TypeVar("Result")
Choice = TypeVar("Choice", bound=Enum)

_MAX_WAITING = 1024
# Whoever calls: all completions of one engine are one program's.
_USER = "local"


class LocalEngine:
    """Drafter, verifier and coordinator in this process, each engine on a thread of its own.

    Safe to use from several threads and event loops at once: up to `max_sessions` completions run together, the others
    wait their turn. Close it, or use it as a context manager, to free the models.
    """

    def __init__(
        self,
        target: str = EMBEDDED_TARGET,
        draft: str | None = EMBEDDED_DRAFT,
        *,
        dtype: Dtype = "float32",
        draft_dtype: Dtype | None = None,
        draft_layers: int = 0,
        device: str = "cpu",
        speculation: str = Speculation.AUTO.value,
        drafters: Sequence[str] = (),
        suffix_memory: str = "0",
        allow_lossy: Sequence[str] = (),
        max_sessions: int = 8,
        cache_memory: str = "25%",
        context_tokens: int = 0,
        threads: int = 0,
        numerics: Literal["exact", "fast"] = "exact",
        traced: bool = True,
    ) -> None:
        """Load both models and start.

        Args:
            target: the large model, whose output you get: a folder, a hub id, or `embedded-target`.
            draft: the small model, which guesses ahead; None: nobody drafts. It needs the target's tokenizer. `target`:
                the target's own weights, which are loaded a second time. A type may follow, as in `target:int8`.
            dtype: of the target's weights; `int8` quantises them.
            draft_dtype: of the draft model's weights; None: as its name says, or else `dtype`.
            draft_layers: with the draft `target`, how many of the target's first layers draft; 0: all.
            device: of both models, for example `cpu` or `cuda`.
            speculation: for calls that do not say: off, lockstep, pipelined, hedged or auto.
            drafters: for calls that do not say: `model`, and proposers that need none, for example `lookup`; see
                docs/proposers.md. Empty: DEFAULT_DRAFTERS.
            suffix_memory: what the drafter `suffix` may keep of earlier completions, for example `64M`; 0: nothing.
            allow_lossy: acceptance rules that calls may ask for, though tokens may then not be the target's own:
                typical, top-k, threshold.
            max_sessions: completions that run at the same time.
            cache_memory: of each model's KV cache: an amount such as `512M`, or a share of the free memory. When it is
                full, the youngest completions wait.
            context_tokens: the most tokens of a completion, prompt included; 0: the target's context.
            threads: processor threads of a pass of the target; 0: all cores while no drafter works, else all but one.
            numerics: exact: the same tokens whatever is drafted or runs beside; fast: near ties may flip.
            traced: on a processor, replay passes instead of running their Python each time. Without, the engine is
                there seconds sooner, and its tokens, which are the same, come at two thirds of the speed.

        Raises:
            InvalidRequest: there is no such way to speculate.
            InvalidSettings: another value is out of range.
            ModelError: a model cannot be found, or not be served.
            PairMismatch: the models do not belong together.
        """
        _check_items("a drafter's name", str, "drafters", drafters)
        # Before the models load.
        _check_items("an acceptance rule", str, "allow_lossy", allow_lossy)
        lossy = tuple(_member(AcceptanceRule, "allow_lossy", each) for each in allow_lossy)
        defaults = Defaults(
            _member(Speculation, "speculation", speculation), drafters=tuple(drafters), allow_lossy=lossy
        )
        shared: dict[str, Any] = {
            "device": device,
            "max_sessions": max_sessions,
            "cache_memory": cache_memory,
            "context_tokens": context_tokens,
            "traced": traced,
        }
        verifier = VerifierSettings(
            model=target, dtype=dtype, threads=threads, numerics=numerics, suffix_memory=suffix_memory, **shared
        )
        drafter = None
        if draft:
            draft_choice(draft, target, draft_layers, draft_dtype)
            drafts_with: dict[str, Any] = {"target": target, "layers": draft_layers, "dtype": draft_dtype or dtype}
            drafter = DrafterSettings(model=draft, **drafts_with, **shared)
        self._start(LocalServices(verifier, drafter), defaults)

    @classmethod
    def from_settings(cls, verifier: VerifierSettings, drafter: DrafterSettings | None) -> Self:
        """Start with everything that can be set of the services; host and ports are not read.

        Raises:
            See the constructor.
        """
        engine = cls.__new__(cls)
        engine._start(LocalServices(verifier, drafter), Defaults())
        return engine

    def _start(self, services: LocalServices, defaults: Defaults) -> None:
        self._services = services
        admission = Admission(_MAX_WAITING)
        admission.resize(services.target.description.max_sessions)
        self._generation = Generation(services, admission, defaults, Patience())
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sybil-local", daemon=True)
        self._thread.start()
        self._closed = False
        self._closing = threading.Lock()
        self._process = os.getpid()

    @property
    def target(self) -> ModelDescription:
        """What verifies."""
        return self._services.target.description

    @property
    def draft(self) -> ModelDescription | None:
        """What drafts; None: nobody."""
        return self._services.draft

    async def _generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_end_tokens: bool = False,
        speculation: str | None = None,
        drafters: Sequence[str] = (),
        prediction: str | Sequence[int] = "",
        window_tokens: int = 0,
        acceptance_rule: str = AcceptanceRule.SHARED_NOISE.value,
        acceptance_parameter: float = 0.0,
        logprobs: bool = False,
        priority: int = 0,
    ) -> AsyncGenerator[Delta, None]:
        """Complete a prompt.

        `generate` returns the whole completion, `stream` yields its deltas as tokens are decided; `agenerate` and
        `astream` are the same for callers that `await`.

        Args:
            prompt: text, or token ids.
            max_tokens: how many tokens to generate at most (`max_new_tokens` in transformers); None: 128, or as many as
                fit.
            temperature: 0 takes the most likely token (greedy); above 0 samples.
            top_k: keep the most likely tokens; 0 keeps all.
            top_p: keep the most likely tokens up to this probability.
            min_p: drop tokens less likely than this share of the most likely one.
            seed: the same seed gives the same tokens, whatever is drafted; None: a random one, see `ending.seed`.
            stop: text that ends the completion; it is not part of it.
            stop_token_ids: tokens that end the completion, beside the model's own end tokens.
            ignore_end_tokens: go on past the model's own end tokens.
            speculation: off, lockstep, pipelined, hedged or auto; None: as the engine was told.
            drafters: who guesses, together; empty: as the engine was told.
            prediction: your own guess of the completion, text or token ids, for example the file that is to be edited;
                the better it is, the sooner the completion is there.
            window_tokens: the most drafted tokens that one pass judges; 0: automatic.
            acceptance_rule: how drafted tokens are judged: shared-noise, ratio-test, or a lossy one that the engine
                allows: typical, top-k, threshold.
            acceptance_parameter: of a lossy rule; 0: its default.
            logprobs: give each token's log-probability.
            priority: among completions that run or wait together, higher ones start first, and their prompts are fed
                first.

        Raises:
            InvalidRequest: a value is out of range.
            ContextExceeded: prompt and max_tokens do not fit the context.
            Unavailable: the engine is closed.
        """
        _check_kind("a whole number", int, max_tokens=max_tokens, top_k=top_k, seed=seed, window_tokens=window_tokens)
        _check_kind("a whole number", int, priority=priority)
        _check_kind("a number", (int, float), temperature=temperature, top_p=top_p, min_p=min_p)
        _check_kind("a number", (int, float), acceptance_parameter=acceptance_parameter)
        stops = (stop,) if isinstance(stop, str) else stop
        _check_items("text", str, "stop", stops)
        _check_items("a token id", int, "stop_token_ids", stop_token_ids)
        _check_items("a drafter's name", str, "drafters", drafters)
        if not isinstance(prediction, str):
            _check_items("a token id", int, "prediction", prediction)
        if not isinstance(prompt, str):
            _check_items("a token id", int, "prompt", prompt)
        sampling = SamplingParams(temperature, top_k, top_p, min_p)
        way = None if speculation is None else _member(Speculation, "speculation", speculation)
        limits = seed, max_tokens, stops, stop_token_ids, ignore_end_tokens
        request = GenerationRequest(
            prompt,
            sampling,
            *limits,
            way,
            window_tokens,
            logprobs=logprobs,
            priority=priority,
            drafters=drafters,
            prediction=prediction,
            acceptance_rule=_member(AcceptanceRule, "acceptance_rule", acceptance_rule),
            acceptance_parameter=acceptance_parameter,
            user=_USER,
        )
        async with aclosing(self._generation.stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    stream = twins.iterator("stream", _generate)
    astream = twins.async_iterator("astream", _generate)
    generate = twins.function("generate", _generate, Completion.joined)
    agenerate = twins.async_function("agenerate", _generate, Completion.joined)

    def _run(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """Run a request that is made already; see `generate`."""
        return self._generation.stream(request)

    arun = twins.async_iterator("arun", _run)

    def submit(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Run a coroutine on the engine's event loop.

        Raises:
            Unavailable: the engine is closed, or belongs to the process that forked this one.
        """
        if os.getpid() != self._process:
            coroutine.close()
            raise Unavailable(
                "this engine's threads stayed in the process that forked this one; make another LocalEngine"
            )
        with self._closing:
            if self._closed:
                coroutine.close()
                raise Unavailable(twins.CLOSED)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """End what is running and free both models; closing it again, or in a forked process, changes nothing."""
        if os.getpid() != self._process:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
            # Before the loop, which their last messages go to.
            self._services.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def _cancel_all() -> None:
    """Cancel every other task of this loop, and wait for their ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _check_kind(kind: str, types: type | tuple[type, ...], **values: object) -> None:
    """Raise InvalidRequest for the first value that has another type; None is left out."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            raise InvalidRequest(f"{name} is {value!r}; it must be {kind}")


def _check_items(kind: str, item_type: type, name: str, values: object) -> None:
    """Raise InvalidRequest if this is no list, or for the first item that has another type."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise InvalidRequest(f"{name} is {values!r}; it must be a list")
    for place, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, item_type):
            raise InvalidRequest(f"{name}[{place}] is {value!r}; it must be {kind}")


def _member(kind: type[Choice], field: str, name: str) -> Choice:
    try:
        return kind(name)
    except ValueError:
        served = ", ".join(each.value for each in kind)
        raise InvalidRequest(
            f"{field} has the value {name!r}, which this version does not serve; choose one of {served}"
        ) from None
