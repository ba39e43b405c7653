"""Services with flags of one's own, and what each of them holds."""

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.services import hosted
from sybil_engine.serving.metrics import PREFIX

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SESSIONS = ("num_sessions_running", "num_sessions_waiting", "num_requests_running", "num_requests_waiting")
_SETTLE_S = 20.0
_START_S = 300


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds.

    Attributes:
        pages: of the KV cache that sessions use; 0 in a coordinator.
        sessions: open ones; in a coordinator requests that run or wait.
        tasks: of its event loop.
        descriptors: open files and sockets.
        memory_mib: resident.
    """

    pages: int
    sessions: int
    tasks: int
    descriptors: int
    memory_mib: float


@dataclass(frozen=True, slots=True)
class StackProcess:
    """A service of the stack."""

    kind: str
    pid: int
    address: str
    metrics_port: int

    @property
    def memory_mib(self) -> float:
        """Resident memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES / 2**20

    async def footprint(self) -> Footprint:
        """What it holds now."""
        sums = await asyncio.to_thread(self._scrape)
        return Footprint(
            int(sums["kv_cache_pages_used"]),
            int(sum(sums[name] for name in _SESSIONS)),
            int(sums["event_loop_tasks"]),
            len(os.listdir(f"/proc/{self.pid}/fd")),
            self.memory_mib,
        )

    async def value(self, name: str) -> float:
        """A metric's value now; the name is without the prefix."""
        return (await asyncio.to_thread(self._scrape))[name]

    def _scrape(self) -> dict[str, float]:
        """The sum of each series over its labels, by name without the prefix; 0 for those that it does not have."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            text = str(answer.read().decode())
        sums = defaultdict[str, float](float)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name.removeprefix(PREFIX)] += sample.value
        return sums


@dataclass(frozen=True, slots=True)
class RunningStack:
    """The processes: a verifier, perhaps a drafter, and a coordinator."""

    processes: tuple[StackProcess, ...]

    @property
    def verifier(self) -> StackProcess:
        return self.processes[0]

    @property
    def coordinator(self) -> StackProcess:
        return self.processes[-1]

    async def settled(self, holds: Callable[[Sequence[Footprint]], bool] = lambda footprints: True) -> list[Footprint]:
        """The footprints once nothing has changed for a while; or the last ones, if they always change.

        Args:
            holds: what must be the case besides.
        """
        loop = asyncio.get_running_loop()
        end_s, before = loop.time() + _SETTLE_S, list[Footprint]()
        while True:
            now = [await each.footprint() for each in self.processes]
            same = [astuple(each)[:4] for each in now] == [astuple(each)[:4] for each in before]
            if (same and holds(now)) or loop.time() > end_s:
                return now
            before = now
            await asyncio.sleep(0.5)


@asynccontextmanager
async def running_stack(
    verifier: Sequence[str] = (), drafter: Sequence[str] | None = (), coordinator: Sequence[str] = ()
) -> AsyncIterator[RunningStack]:
    """Start them, with further flags for each, and wait until they serve; leaving the block ends them.

    Args:
        drafter: None: there is none.

    Raises:
        Unavailable: one of them does not come up.
    """
    ports = _free_ports(3)
    flags = {"verifier": verifier} | ({} if drafter is None else {"drafter": drafter})
    async with AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(hosted(kind, (), ("--metrics-port", str(port), *flags[kind])))
            for kind, port in zip(flags, ports, strict=False)
        ]
        addresses = [await each.address(lambda line: None, started) for each in started]
        routed = [flag for kind, address in zip(flags, addresses, strict=True) for flag in (f"--{kind}s", address)]
        starting = ("--start-s", str(_START_S), "--drafter-start-s", str(_START_S), "--metrics-port", str(ports[-1]))
        started.append(await stack.enter_async_context(hosted("coordinator", (), (*routed, *starting, *coordinator))))
        addresses.append(await started[-1].address(lambda line: None, started))
        metrics_ports = (*ports[: len(flags)], ports[-1])
        yield RunningStack(
            tuple(
                StackProcess(each.kind, each.process.pid, address, port)
                for each, address, port in zip(started, addresses, metrics_ports, strict=True)
            )
        )


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]
