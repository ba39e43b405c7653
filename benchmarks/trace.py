"""One session with every message recorded: the coordinator's own pipeline, in this process, between recorders."""

import statistics
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import cast

from benchmarks.arms import BenchTask, EngineArm
from benchmarks.engine import BenchEngine
from coordinator.clients import DrafterClient, VerifierClient
from coordinator.patience import Patience
from coordinator.pipeline import DrafterStream, PassingBlock, Pipeline, VerifierStream
from coordinator.usage import DraftedBlock, Meter
from sybil_engine.core.plan import first_plan
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import Block, SamplingParams
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.serving.convert import block_from_wire

_PINGS = 15


@dataclass(slots=True)
class BlockEvent:
    """A block on its way, by this process's clock.

    Attributes:
        message: as it is forwarded.
        arrived_ns: when it came from the drafter.
        offered_ns: when it was forwarded to the verifier; None if it never was.
    """

    message: DraftedBlock
    block: Block
    arrived_ns: int
    offered_ns: int | None = None


@dataclass(frozen=True, slots=True)
class CommitEvent:
    """A commit that arrived."""

    commit: Commit
    arrived_ns: int


@dataclass(slots=True)
class SessionTrace:
    """All blocks and commits of one session, in the order in which they arrived.

    Attributes:
        verifier_wire_ns, drafter_wire_ns: one way between here and there, the emulated delay included: half of the
            median round trip of an empty call.
    """

    task: BenchTask
    verifier_wire_ns: int
    drafter_wire_ns: int
    blocks: list[BlockEvent] = field(default_factory=list)
    commits: list[CommitEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RecordedVerifier:
    """A verifier stream that records when blocks are forwarded; implements the pipeline's VerifierStream."""

    stream: VerifierStream
    trace: SessionTrace

    async def open(self, opening: SessionOpen) -> None:
        await self.stream.open(opening)

    async def offer(self, blocks: Sequence[PassingBlock]) -> None:
        offered_ns = time.perf_counter_ns()
        await self.stream.offer(blocks)
        # The pipeline forwards the same objects that it received.
        offered = {id(block) for block in blocks}
        for event in self.trace.blocks:
            if id(event.message) in offered:
                event.offered_ns = offered_ns

    def commits(self) -> AsyncIterator[Commit]:
        return self.stream.commits()


class RecordingMeter(Meter):
    """Records the blocks and commits that the pipeline counts."""

    def __init__(self, trace: SessionTrace) -> None:
        super().__init__()
        self._trace = trace

    def drafted(self, block: DraftedBlock, arrived_ns: int) -> None:
        decoded = block_from_wire(cast(types_pb2.Block, block))
        self._trace.blocks.append(BlockEvent(block, decoded, arrived_ns))

    def committed(self, commit: Commit, arrived_ns: int) -> None:
        self._trace.commits.append(CommitEvent(commit, arrived_ns))


async def trace_session(
    engine: BenchEngine, arm: EngineArm, task: BenchTask, sampling: SamplingParams, max_tokens: int
) -> SessionTrace:
    """Complete one task under an arm's policy and return all its messages."""
    services = engine.services
    assert services is not None
    async with AsyncExitStack() as stack:
        verifier = VerifierClient(services.verifier)
        stack.push_async_callback(verifier.close)
        drafter = DrafterClient(services.drafter) if services.drafter else None
        if drafter:
            stack.push_async_callback(drafter.close)
        trace = SessionTrace(
            task,
            verifier_wire_ns=await _one_way_ns(verifier) + engine.delay_ns,
            drafter_wire_ns=await _one_way_ns(drafter) if drafter else 0,
        )
        opening = SessionOpen(
            token_ids=task.prompt,
            prompt_tokens=len(task.prompt),
            sampling=sampling,
            seed=task.seed,
            stop_token_ids=frozenset((await verifier.describe()).end_token_ids),
            max_position=len(task.prompt) + max_tokens,
            session_id=f"trace-{arm.name}",
            plan=first_plan(arm.kind.speculation, arm.window_tokens),
            window_tokens=arm.window_tokens,
        )

        @contextmanager
        def open_verifier() -> Iterator[VerifierStream]:
            with verifier.session() as stream:
                yield RecordedVerifier(stream, trace)

        def open_drafter(taken: Collection[str]) -> AbstractContextManager[DrafterStream]:
            assert drafter is not None, "without a drafter only OFF is measured, which opens none"
            return drafter.session()

        pipeline = Pipeline(opening, open_verifier, open_drafter, RecordingMeter(trace), Patience())
        async with aclosing(pipeline.run()) as session:
            async for _ in session:
                pass
    return trace


async def _one_way_ns(client: VerifierClient | DrafterClient) -> int:
    """Half of the median round trip of a call that does nothing."""
    times_ns = []
    for _ in range(_PINGS):
        start_ns = time.perf_counter_ns()
        await client.describe()
        times_ns.append(time.perf_counter_ns() - start_ns)
    return round(statistics.median(times_ns) / 2)
