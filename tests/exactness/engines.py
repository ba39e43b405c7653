"""Drafter and verifier in one thread, driven by a schedule: what the services do, without their sockets."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from drafter_service.engine import BRANCH_CELLS as DRAFT_BRANCH_CELLS
from drafter_service.engine import Drafter
from drafter_service.growth import Candidate
from drafter_service.session import DrafterSession
from drafter_service.share import DraftShare
from sybil_engine.core.session import Commit, DrafterShare, SessionOpen
from sybil_engine.core.types import Block, DrafterCount, ModelDescription, Speculation
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.rows import Rows, TreeRows
from verifier_service.engine import BRANCH_CELLS, Verifier
from verifier_service.session import VerifierSession

SLOTS = 8
MAX_WINDOW_TOKENS = 7


def describe_in_memory(model: PreTrainedModel, context_tokens: int) -> ModelDescription:
    """Describe a model that has no folder."""
    return ModelDescription(
        model_id="in memory",
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary_size=model.config.vocab_size,
        tokenizer_fingerprint="",
        tokenizer_parts={},
        end_token_ids=(),
        begin_token_id=None,
        context_tokens=context_tokens,
        dtype=str(model.dtype).removeprefix("torch."),
        device="cpu",
    )


@dataclass
class Continuation:
    """One session: what opens it, what was committed, and how its drafts fared."""

    opening: SessionOpen
    token_ids: list[int] = field(default_factory=list)
    tested_tokens: int = 0
    accepted_tokens: int = 0
    counts: list[DrafterCount] = field(default_factory=list)
    finished: bool = False
    commits: list[Commit | Exception] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    verifying: VerifierSession | None = None
    drafting: list[DrafterSession] = field(default_factory=list)

    def take_blocks(self, pushed: tuple[Block, ...] | Exception) -> None:
        assert isinstance(pushed, tuple), pushed
        self.blocks += pushed


class LoadedPair:
    """A target and a draft model, each run by its engine."""

    def __init__(self, target: LoadedModel, draft: LoadedModel, *, draft_numerics: str = "fast") -> None:
        self.target_runner = ModelRunner(
            target, RunnerOptions(SLOTS, context_tokens=512, numerics="exact", branch_cells=BRANCH_CELLS)
        )
        draft_runner = ModelRunner(
            draft,
            RunnerOptions(
                SLOTS,
                context_tokens=512,
                numerics="exact" if draft_numerics == "exact" else "fast",
                branch_cells=DRAFT_BRANCH_CELLS,
            ),
        )
        self.branches_judged = self.branches_kept = 0
        self._count_branches()
        self.verifier = Verifier(self.target_runner, target.description, MAX_WINDOW_TOKENS)
        self.drafter = CheckedDrafter(draft_runner, draft.description)

    def _count_branches(self) -> None:
        """Watch the target's runner: how many branches it feeds, and how many of them it keeps."""
        forward, keep_branches = self.target_runner.forward, self.target_runner.keep_branches

        def counting_forward(batch: Sequence[Rows], *, alone: bool = False) -> Tensor:
            self.branches_judged += sum(rows.first_cell is not None for rows in batch)
            return forward(batch, alone=alone)

        def counting_keep_branches(branches: Sequence[Rows]) -> None:
            self.branches_kept += len(branches)
            keep_branches(branches)

        self.target_runner.forward = counting_forward  # type: ignore[method-assign]
        self.target_runner.keep_branches = counting_keep_branches  # type: ignore[method-assign]

    def complete(
        self,
        openings: Sequence[SessionOpen],
        *,
        together: int = 1,
        schedule_seed: int = 0,
        lost_blocks: float = 0.0,
        drafters: int = 1,
    ) -> list[Continuation]:
        """Run sessions to their ends.

        Args:
            together: how many sessions are open at the same time, at most; they join and leave at random.
            schedule_seed: decides who joins when, and when messages arrive.
            lost_blocks: the share of blocks that never arrive.
            drafters: how many draft for each session; here they share one engine.
        """
        chance = random.Random(schedule_seed)
        everyone = [Continuation(opening) for opening in openings]
        waiting = list(everyone)
        running: list[Continuation] = []
        while waiting or running:
            while waiting and len(running) < together and (not running or chance.random() < 0.3):
                running.append(self._open(waiting.pop(0), drafters))
            for _ in range(chance.randint(0, MAX_WINDOW_TOKENS)):
                self.drafter.step()
            for each in running:
                self._deliver_blocks(each, chance, lost_blocks)
            self.verifier.step()
            for each in running:
                self._deliver_commits(each)
            running = [each for each in running if not each.finished]
        assert self.verifier.open_sessions == self.drafter.open_sessions == 0
        return everyone

    def _open(self, each: Continuation, drafters: int) -> Continuation:
        each.verifying = self.verifier.open(each.opening, each.commits.append)
        if each.opening.plan.speculation is not Speculation.OFF:
            each.drafting = [
                self.drafter.open(replace(each.opening, share=DrafterShare(index, drafters)), each.take_blocks)
                for index in range(drafters)
            ]
        return each

    def _deliver_blocks(self, each: Continuation, chance: random.Random, lost_blocks: float) -> None:
        # With hedges there are several blocks a pass: they must not pile up until they are stale.
        goes_on = 0.98 if each.opening.plan.speculation is Speculation.HEDGED else 0.8
        while each.blocks and chance.random() < goes_on:
            block = each.blocks.pop(0)
            if chance.random() >= lost_blocks:
                assert each.verifying is not None
                each.verifying.offer(block, time.monotonic_ns())

    def _deliver_commits(self, each: Continuation) -> None:
        for commit in each.commits:
            assert isinstance(commit, Commit), commit
            each.token_ids += commit.token_ids
            each.accepted_tokens += commit.accepted
            each.counts += commit.drafters
            each.tested_tokens += min(commit.judged, commit.accepted + 1)
            each.finished = commit.finish_reason is not None
            if not each.finished:
                for drafting in each.drafting:
                    drafting.advance(commit.advance)
        each.commits.clear()
        if each.finished:
            for drafting in each.drafting:
                self.drafter.close(drafting)


class WatchedCells:
    """Remembers which token was fed into each cell of a runner, and at which position."""

    def __init__(self, runner: ModelRunner) -> None:
        self._held: dict[int, tuple[int, int]] = {}
        self._place = runner.pool.place
        prefill, prepare_tree = runner.prefill, runner.prepare_tree

        def watched_prefill(prompt: Rows) -> None:
            prefill(prompt)
            positions = range(prompt.position, prompt.position + len(prompt.token_ids))
            self._hold(prompt.slot, positions, positions, prompt.token_ids)

        def watched_prepare_tree(batch: Sequence[TreeRows]) -> Any:
            for rows in batch:
                self._hold(rows.slot, rows.cells, rows.positions, rows.token_ids)
            self.check(batch)
            return prepare_tree(batch)

        self.check: Callable[[Sequence[TreeRows]], None] = lambda batch: None
        runner.prefill = watched_prefill  # type: ignore[method-assign]
        runner.prepare_tree = watched_prepare_tree  # type: ignore[method-assign]

    def _hold(self, slot: int, cells: Sequence[int], positions: Sequence[int], token_ids: Sequence[int]) -> None:
        self._held |= zip(self._place(slot, cells).tolist(), zip(positions, token_ids, strict=True), strict=True)

    def contexts(self, rows: TreeRows) -> Iterator[list[int]]:
        """For each row the tokens in the cells that it sees, in the order of their positions."""
        for position, path in zip(rows.positions, rows.paths, strict=True):
            seen = [self._held[place] for place in self._place(rows.slot, [*rows.trunk.tolist(), *path]).tolist()]
            assert [place for place, _ in seen] == list(range(position + 1)), "a path with gaps, or two branches"
            yield [token_id for _, token_id in seen]


class CheckedDrafter(Drafter):
    """A drafter that checks its context at every draft pass: its cells hold the ledger's tokens, then the path's."""

    def __init__(self, runner: ModelRunner, description: ModelDescription) -> None:
        super().__init__(runner, description)
        self.passes_checked = 0
        self._cells = WatchedCells(runner)
        self._cells.check = self._check
        self._shares: Sequence[DraftShare] = ()

    def _run_pass(self, shares: list[DraftShare]) -> None:
        self._shares = shares
        super()._run_pass(shares)

    def _check(self, batch: Sequence[TreeRows]) -> None:
        for share, rows in zip(self._shares, batch, strict=True):
            ledger = share.session.ledger
            if share.candidates:
                wanted = [[*ledger[:], *_path(share.session, each)] for each in share.candidates]
            else:
                wanted = [ledger[: position + 1] for position in rows.positions]
            assert list(self._cells.contexts(rows)) == wanted, (
                "the drafter's context is not the ledger's, then the path's"
            )
        self.passes_checked += 1


def _path(session: DrafterSession, candidate: Candidate) -> list[int]:
    """The drafted tokens that lead to a candidate, its own included."""
    path = [candidate.token_id]
    node = candidate.parent
    while node is not session.growth.tree.root:
        path.append(node.token_id)
        assert node.parent is not None
        node = node.parent
    return path[::-1]


def reopened_at(opening: SessionOpen, token_ids: Sequence[int], cut: int) -> SessionOpen:
    """What reopens a session after `cut` of its generated tokens."""
    return replace(opening, token_ids=opening.token_ids + tuple(token_ids[:cut]))


def perturbed(model: PreTrainedModel, make: type[PreTrainedModel], noise: float, seed: int) -> PreTrainedModel:
    """A copy of a model with noise on its weights: a drafter that is right some of the time."""
    copy = make(model.config)
    copy.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * noise)
    moved: Any = copy
    result: PreTrainedModel = moved.to(model.dtype).eval()
    return result
