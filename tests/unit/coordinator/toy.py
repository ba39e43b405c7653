"""A target and a drafter without models: every token is a function of the tokens before it."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sybil_engine.core.draft_tree import DraftTree
from sybil_engine.core.errors import SybilError, Unavailable
from sybil_engine.core.ledger import Ledger
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import Block, FinishReason, ModelDescription, PassTimings, Speculation, TokenOrigin

VOCABULARY_SIZE = 260
END_TOKEN = 256
CONTEXT_TOKENS = 1024


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


def toy_tokenizer() -> Tokenizer:
    """One token for each byte, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


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


def toy_token(seed: int, prefix_fingerprint: int) -> int:
    """The target's token after a prefix: printable ASCII in the toy tokenizer."""
    return 33 + (prefix_fingerprint ^ (seed * 0x9E3779B97F4A7C15)) % 60


def toy_completion(prompt: tuple[int, ...], seed: int, max_tokens: int) -> tuple[int, ...]:
    """What the toy target generates."""
    ledger = Ledger(prompt, len(prompt))
    for _ in range(max_tokens):
        _append(ledger, toy_token(seed, ledger.fingerprint(len(ledger))))
    return tuple(ledger[len(prompt) :])


def judged(opening: SessionOpen, ledger: Ledger, drafted: list[int], draft_budget: int, pass_ns: int = 0) -> Commit:
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
    tokens = tuple(scratch[len(ledger) :])
    return Commit(
        position=len(ledger),
        prefix_fingerprint=ledger.fingerprint(len(ledger)),
        token_ids=tokens,
        origins=(TokenOrigin.DRAFTED,) * accepted + (TokenOrigin.TARGET,) * (len(tokens) - accepted),
        logprobs=(-0.5,) * len(tokens) if opening.logprobs else (),
        draft_budget=opening.window_tokens if opening.speculation is Speculation.LOCKSTEP else draft_budget,
        window_tokens=len(drafted),
        accepted_tokens=accepted,
        timings=PassTimings(forward_ns=pass_ns, gap_ns=1000),
        finish_reason=reason,
    )


class ToyDraft:
    """The drafter's side of one session: it guesses right six times of seven."""

    def __init__(self, opening: SessionOpen) -> None:
        self._seed = opening.seed
        self._budget = opening.draft_budget
        self._ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self._tip = Ledger(opening.token_ids, opening.prompt_tokens)
        self._changed = asyncio.Event()

    def advance(self, commit: Commit) -> None:
        self._ledger.append(commit)
        self._budget = commit.draft_budget
        if self._tip[: len(self._ledger)] != self._ledger[:]:
            self._tip = Ledger(self._ledger[:], self._ledger.prompt_tokens)
        self._changed.set()

    async def next_block(self, draft_ns: int = 0) -> Block:
        """Wait until the budget allows another token."""
        while len(self._tip) - len(self._ledger) >= self._budget:
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
    """

    breaks_after: int | None = None
    breaks_with: SybilError | None = None
    repeats: int = 1
    skips: int | None = None
    openings: list[SessionOpen] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
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
        self._opened: asyncio.Future[SessionOpen] = asyncio.get_running_loop().create_future()
        self._tree: DraftTree | None = None

    async def open(self, opening: SessionOpen) -> None:
        self._verifier.openings.append(opening)
        self._ledger = Ledger(opening.token_ids, opening.prompt_tokens)
        self._tree = DraftTree(self._ledger)
        self._opened.set_result(opening)

    async def offer(self, blocks: Sequence[Block]) -> None:
        assert self._tree is not None, "a block came before the opening"
        self._verifier.blocks += blocks
        for block in blocks:
            self._tree.graft(block)

    async def commits(self) -> AsyncIterator[Commit]:
        opening = await self._opened
        assert self._tree is not None
        sent = 0
        while True:
            for _ in range(8):
                await asyncio.sleep(0)
            if self._verifier.breaks_with and sent == self._verifier.breaks_after:
                raise self._verifier.breaks_with
            drafted = [node.token_id for node in self._tree.best_path()][: opening.window_tokens or 4]
            commit = judged(opening, self._ledger, drafted, draft_budget=8)
            self._ledger.append(commit)
            self._tree.advance()
            if sent != self._verifier.skips:
                for _ in range(self._verifier.repeats):
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
    """

    breaks_after: int = 0
    breaks_with: SybilError | None = None
    stuck: bool = False
    openings: list[SessionOpen] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    open_streams: int = 0

    @contextmanager
    def session(self) -> Iterator["FakeDrafterStream"]:
        self.open_streams += 1
        try:
            yield FakeDrafterStream(self)
        finally:
            self.open_streams -= 1


class FakeDrafterStream:
    def __init__(self, drafter: FakeDrafter) -> None:
        self._drafter = drafter
        self._opened: asyncio.Future[ToyDraft] = asyncio.get_running_loop().create_future()

    async def open(self, opening: SessionOpen) -> None:
        self._drafter.openings.append(opening)
        self._opened.set_result(ToyDraft(opening))

    async def advance(self, commits: Sequence[Commit]) -> None:
        if self._drafter.stuck:
            await asyncio.Event().wait()
        for commit in commits:
            self._drafter.commits.append(commit)
            # A gap or a contradiction raises here.
            (await self._opened).advance(commit)

    async def blocks(self) -> AsyncIterator[Block]:
        draft = await self._opened
        sent = 0
        while True:
            if self._drafter.stuck:
                await asyncio.Event().wait()
            if self._drafter.breaks_with and sent == self._drafter.breaks_after:
                raise self._drafter.breaks_with
            await asyncio.sleep(0)
            block = await draft.next_block()
            self._drafter.blocks.append(block)
            sent += 1
            yield block


@contextmanager
def nobody() -> Iterator[Any]:
    """Stands for a service that is not there."""
    raise Unavailable("nobody is there")
    yield


def _append(ledger: Ledger, token: int) -> None:
    ledger.append(Commit(len(ledger), ledger.fingerprint(len(ledger)), (token,), (TokenOrigin.TARGET,)))
