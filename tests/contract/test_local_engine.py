"""The engine in one process, with the embedded pair: the services' messages and tokens, and nothing left over."""

import asyncio
import inspect
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sybil_engine.core.errors import ContextExceeded, InvalidRequest, ModelNotFound, Unavailable
from sybil_engine.core.types import FinishReason, Speculation, TokenOrigin
from sybil_engine.models.model_runner import ModelRunner
from sybil_engine.models.pages import PAGE_CELLS
from sybil_engine.models.residency import Residency
from sybil_local import Completion, LocalEngine

PROMPT = "def fibonacci(n):\n"
# Holds a session's most cells and little more.
SMALL_CACHE = "6M"
WAYS = [each.value for each in Speculation]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(max_sessions=3, context_tokens=256) as it:
        yield it


@pytest.fixture(scope="module")
def plain(engine: LocalEngine) -> dict[float, Completion]:
    return {
        temperature: engine.generate(PROMPT, max_tokens=40, temperature=temperature, seed=7, speculation="off")
        for temperature in (0.0, 0.8)
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_way_to_speculate_gives_the_tokens_of_plain_decoding(
    engine: LocalEngine, plain: dict[float, Completion], way: str, temperature: float
) -> None:
    completion = engine.generate(PROMPT, max_tokens=40, temperature=temperature, seed=7, speculation=way)
    assert completion.token_ids == plain[temperature].token_ids
    assert completion.text == plain[temperature].text
    assert completion.ending.speculation is Speculation(way)
    assert sum(completion.ending.passes.values()) == completion.ending.usage.verify_passes
    if way == "lockstep":
        assert TokenOrigin.DRAFTED in completion.origins
        assert completion.ending.usage.verify_passes < plain[temperature].ending.usage.verify_passes


def test_a_stream_yields_the_same_text_piece_by_piece(engine: LocalEngine, plain: dict[float, Completion]) -> None:
    deltas = list(engine.stream(PROMPT, max_tokens=40, seed=7, speculation="lockstep"))
    assert "".join(delta.text for delta in deltas) == plain[0.0].text
    assert [token for delta in deltas for token in delta.token_ids] == list(plain[0.0].token_ids)
    assert all(len({token.origin for token in delta.tokens}) <= 1 for delta in deltas)
    assert [delta.ending is not None for delta in deltas] == [False] * (len(deltas) - 1) + [True]


def test_awaiting_gives_the_same_on_any_loop(engine: LocalEngine, plain: dict[float, Completion]) -> None:
    async def both() -> tuple[Completion, list[int]]:
        whole = await engine.agenerate(PROMPT, max_tokens=40, seed=7)
        return whole, [token async for delta in engine.astream(PROMPT, max_tokens=40) for token in delta.token_ids]

    for _ in range(2):
        whole, streamed = asyncio.run(both())
        assert whole.token_ids == tuple(streamed) == plain[0.0].token_ids


def test_a_prompt_seen_before_is_not_fed_again_and_gives_the_same_tokens(engine: LocalEngine) -> None:
    prompt = "".join(f"def f{number}(x):\n    return x + {number}\n\n" for number in range(14))
    first, again = (engine.generate(prompt, max_tokens=24, temperature=0.8, seed=5) for _ in range(2))
    longer = engine.generate(prompt + "def last(x):", max_tokens=4)
    usages = [each.ending.usage for each in (first, again, longer)]
    assert first.token_ids == again.token_ids
    assert usages[0].cached_prompt_tokens == 0
    assert usages[1].cached_prompt_tokens == usages[0].prompt_tokens - 1 - (usages[0].prompt_tokens - 1) % PAGE_CELLS
    assert usages[2].cached_prompt_tokens >= usages[1].cached_prompt_tokens > PAGE_CELLS


def test_a_full_cache_makes_completions_wait_and_changes_none_of_them(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    evicted: list[object] = []
    evict = Residency.evict

    def watched(residency: Residency[Any], session: Any) -> None:
        evicted.append(session)
        evict(residency, session)

    monkeypatch.setattr(Residency, "evict", watched)

    def asked(seed: int) -> dict[str, Any]:
        # Each of them takes four pages in the end, and starts with one.
        length = {"max_tokens": 3 * PAGE_CELLS, "ignore_end_tokens": True}
        return length | {"temperature": 0.8 * (seed % 2), "seed": seed, "speculation": WAYS[seed % len(WAYS)]}

    prompts = [f"{'# ' * (4 * seed)}def f{seed}(values):" for seed in range(len(WAYS))]
    quiet = [engine.generate(prompt, **asked(seed)).token_ids for seed, prompt in enumerate(prompts)]
    with (
        LocalEngine(max_sessions=8, context_tokens=256, cache_memory=SMALL_CACHE, traced=False) as small,
        ThreadPoolExecutor(8) as pool,
    ):
        crowd = list(pool.map(lambda each: small.generate(each[1], **asked(each[0])), enumerate(prompts)))
    assert [each.token_ids for each in crowd] == quiet
    assert evicted


def test_threads_share_the_engine(engine: LocalEngine) -> None:
    alone = [engine.generate(PROMPT, max_tokens=20, temperature=1.0, seed=seed).token_ids for seed in range(6)]
    with ThreadPoolExecutor(6) as threads:
        together = threads.map(
            lambda seed: engine.generate(PROMPT, max_tokens=20, temperature=1.0, seed=seed).token_ids, range(6)
        )
        assert list(together) == alone


def test_a_pass_that_fails_every_time_is_told_soon_and_leaves_the_engine_usable(
    engine: LocalEngine, plain: dict[float, Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no such kernel")

    start_s = time.monotonic()
    with monkeypatch.context() as patch, pytest.raises(Unavailable, match=r"broke 5 times in a row .*no such kernel"):
        patch.setattr(ModelRunner, "forward", broken)
        engine.generate(PROMPT, max_tokens=8, speculation="off")
    assert time.monotonic() - start_s < 10
    assert engine.generate(PROMPT, max_tokens=40, seed=7).token_ids == plain[0.0].token_ids


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"prompt": ""}, InvalidRequest, "the prompt is empty; give at least one character to continue"),
        ({"prompt": ()}, InvalidRequest, "the prompt has no tokens; give at least one to continue"),
        ({"prompt": (1, 10**6)}, InvalidRequest, r"prompt.token_ids\[1\] is 1000000; token ids must be below"),
        ({"prompt": (1, -1)}, InvalidRequest, r"prompt.token_ids\[1\] is -1; token ids must be below"),
        ({"prompt": (1,) * 300}, ContextExceeded, "the prompt has 300 tokens; .* shorten the prompt by 45"),
        ({"max_tokens": 0}, InvalidRequest, "max_tokens is 0; it must be at least 1"),
        ({"max_tokens": 4000}, ContextExceeded, "lower max_tokens or shorten the prompt"),
        ({"temperature": -1}, InvalidRequest, "temperature is -1; it must be a finite number, 0 or more"),
        ({"temperature": float("nan")}, InvalidRequest, "temperature is nan"),
        ({"top_p": 0}, InvalidRequest, "top_p is 0; it must be above 0 and at most 1"),
        ({"top_k": -1}, InvalidRequest, "top_k is -1"),
        ({"min_p": 1}, InvalidRequest, "min_p is 1"),
        ({"seed": -1}, InvalidRequest, "seed is -1; it must fit 64 bits without a sign"),
        ({"stop": [""]}, InvalidRequest, "a stop string is empty"),
        ({"window_tokens": 65}, InvalidRequest, "window_tokens is 65; it must be between 1 and 64"),
        ({"max_tokens": 40.0}, InvalidRequest, "max_tokens is 40.0; it must be a whole number"),
        ({"top_k": 1.5}, InvalidRequest, "top_k is 1.5; it must be a whole number"),
        ({"window_tokens": True}, InvalidRequest, "window_tokens is True; it must be a whole number"),
        ({"temperature": "hot"}, InvalidRequest, "temperature is 'hot'; it must be a number"),
        ({"prompt": (1, "2")}, InvalidRequest, r"prompt\[1\] is '2'; it must be a token id"),
        ({"prompt": b"x"}, InvalidRequest, "prompt is b'x'; it must be a list"),
        ({"stop": [1]}, InvalidRequest, r"stop\[0\] is 1; it must be text"),
        ({"stop_token_ids": [1.0]}, InvalidRequest, r"stop_token_ids\[0\] is 1.0; it must be a token id"),
        ({"speculation": "fast"}, InvalidRequest, "choose one of off, lockstep, pipelined, hedged, auto"),
    ],
)
def test_bad_input_is_refused_in_the_services_words(
    engine: LocalEngine, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        engine.generate(**{"prompt": PROMPT, **options})


def test_stop_strings_and_log_probabilities(engine: LocalEngine, plain: dict[float, Completion]) -> None:
    stop = plain[0.0].text[10:14]
    completion = engine.generate(PROMPT, max_tokens=40, stop=stop, logprobs=True)
    assert completion.text == plain[0.0].text[: plain[0.0].text.index(stop)]
    assert completion.ending.finish_reason is FinishReason.STOP
    assert all(token.logprob is not None and token.logprob <= 0 for token in completion.tokens)


def test_an_abandoned_stream_frees_its_place(engine: LocalEngine) -> None:
    for _ in range(8):
        stream = engine.stream(PROMPT, max_tokens=200)
        next(stream)
        stream.close()
    assert len(engine.generate(PROMPT, max_tokens=5).tokens) == 5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler of Ctrl-C: a shell starts what runs in its background without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_the_engine_usable(engine: LocalEngine) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(50):
            engine.generate(PROMPT, max_tokens=200, speculation="off")
    assert len(engine.generate(PROMPT, max_tokens=5).tokens) == 5


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_stream_raises_the_interrupt_and_frees_its_session(engine: LocalEngine) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(50):
            list(engine.stream(PROMPT, max_tokens=200, speculation="off"))
    assert len(engine.generate(PROMPT, max_tokens=5).tokens) == 5


def test_a_stream_that_takes_too_long_raises_the_timeout(engine: LocalEngine) -> None:
    async def hurried() -> None:
        async with asyncio.timeout(0.2):
            async for _ in engine.astream(PROMPT, max_tokens=200, speculation="off"):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(hurried())
    assert len(engine.generate(PROMPT, max_tokens=5).tokens) == 5


def test_closing_the_engine_tells_everyone_who_waits_for_it_and_leaves_nothing() -> None:
    before = set(threading.enumerate())
    closing = LocalEngine(draft=None, max_sessions=1, context_tokens=256, traced=False)
    half_read = closing.stream(PROMPT, max_tokens=200)
    next(half_read)

    async def awaiting() -> Completion:
        return await closing.agenerate(PROMPT, max_tokens=200)

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(closing.generate, PROMPT, max_tokens=200) for _ in range(2)]
        waiting.append(pool.submit(lambda: asyncio.run(awaiting())))
        time.sleep(0.1)
        closing.close()
        for each in waiting:
            with pytest.raises(Unavailable, match="this engine is closed; make another LocalEngine"):
                each.result(10)
    with pytest.raises(Unavailable, match="closed"):
        list(half_read)
    assert set(threading.enumerate()) <= before


def test_a_forked_process_is_told_to_make_an_engine_of_its_own(engine: LocalEngine) -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            engine.generate(PROMPT)
        except Unavailable as error:
            os.write(write, str(error).encode())
        finally:
            engine.close()
            os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    assert b"make another LocalEngine" in os.read(read, 1_000)
    os.close(read)
    assert len(engine.generate(PROMPT, max_tokens=5).tokens) == 5


def test_each_way_to_call_has_its_own_name_and_the_same_parameters() -> None:
    ways = (LocalEngine.generate, LocalEngine.stream, LocalEngine.agenerate, LocalEngine.astream)
    assert [way.__name__ for way in ways] == ["generate", "stream", "agenerate", "astream"]
    assert len({tuple(inspect.signature(way).parameters) for way in ways}) == 1
    assert "temperature" in inspect.signature(LocalEngine.generate).parameters


def test_a_second_engine_works_beside_the_first_and_a_closed_one_says_so(
    engine: LocalEngine, plain: dict[float, Completion]
) -> None:
    before = set(threading.enumerate())
    second = LocalEngine(draft=None, max_sessions=1, context_tokens=256, traced=False)
    assert second.draft is None
    # Asked to draft, with nobody to do it: the same tokens.
    assert second.generate(PROMPT, max_tokens=40, speculation="lockstep").token_ids == plain[0.0].token_ids
    assert engine.generate(PROMPT, max_tokens=40).token_ids == plain[0.0].token_ids
    second.close()
    second.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(Unavailable, match="this engine is closed; make another LocalEngine"):
        second.generate(PROMPT)
    with pytest.raises(Unavailable, match="closed"):
        list(second.stream(PROMPT))


def test_models_that_cannot_be_served_are_named_and_nothing_is_left() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ModelNotFound, match="no folder"):
        LocalEngine(target="./nowhere")
    with pytest.raises(ModelNotFound, match="no folder"):
        LocalEngine(draft="./nowhere")
    with pytest.raises(InvalidRequest, match="choose one of off"):
        LocalEngine(speculation="sideways")
    with pytest.raises(InvalidRequest, match="context_tokens is 1; it must be at least 16, or 0 for the model's own"):
        LocalEngine(context_tokens=1)
    with pytest.raises(InvalidRequest, match="device is 'meta', which this machine does not offer; choose cpu"):
        LocalEngine(device="meta")
    with pytest.raises(InvalidRequest, match="max_sessions is 1000000000; it must be between 1 and 65536"):
        LocalEngine(max_sessions=10**9)
    with pytest.raises(InvalidRequest, match="threads is 1000000; it must be between 0 and"):
        LocalEngine(threads=10**6)
    assert set(threading.enumerate()) <= before
