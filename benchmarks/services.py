"""Drafter, verifier and coordinator as processes of a benchmark, with known addresses and cores.

They are the same processes as a fleet's, but without Ray, through which tokens never pass: a benchmark must pin the
processes and connect to each, so it starts them itself.
"""

import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, NoReturn

from benchmarks.plan import Plan
from coordinator.progress import Report
from sybil_engine.core.errors import Unavailable

_START_S = 900
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class RunningServices:
    """The host:port of each service; None for the drafter if there is none."""

    coordinator: str
    verifier: str
    drafter: str | None


@asynccontextmanager
async def running_services(plan: Plan, report: Report) -> AsyncIterator[RunningServices]:
    """Start them and wait until they serve; leaving the block ends their processes.

    Args:
        report: called with what is being waited for, in words.

    Raises:
        Unavailable: one of them does not come up.
    """
    verifier_cores, drafter_cores = plan.environment.verifier_cores, plan.environment.drafter_cores
    async with AsyncExitStack() as stack:
        services = [hosted("verifier", verifier_cores, plan.verifier_arguments)]
        services += [hosted("drafter", drafter_cores, plan.drafter_arguments) for _ in range(plan.drafter_services)]
        processes = [await stack.enter_async_context(each) for each in services]
        address, *drafters = [await each.address(report, processes) for each in processes]
        flags = ["--verifiers", address, "--start-s", str(_START_S), "--drafter-start-s", str(_START_S)]
        flags += ["--drafters", ",".join(drafters)] if drafters else []
        coordinator = await stack.enter_async_context(hosted("coordinator", drafter_cores, flags))
        served = await coordinator.address(report, [*processes, coordinator])
        yield RunningServices(served, address, next(iter(drafters), None))


@dataclass(slots=True)
class ServiceProcess:
    """A process that hosts a service."""

    kind: str
    process: Process
    errors: IO[bytes]

    async def address(self, report: Report, others: Sequence["ServiceProcess"]) -> str:
        """Wait for its address.

        Args:
            others: processes, this one included, whose end ends the wait.
        """
        report(f"waiting for the {self.kind} to start")
        waits = [*(each.end() for each in others), self._read_address(report)]
        tasks = [asyncio.create_task(wait) for wait in waits]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # An end comes before an address that was said shortly before.
            return next(task for task in tasks if task in done).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_address(self, report: Report) -> str:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            with suppress(ValueError):
                said = json.loads(line)
                if "address" in said:
                    return str(said["address"])
                report(str(said["waiting"]))
        return await self.end()

    async def end(self) -> NoReturn:
        """Wait until it ends, and raise what it said last."""
        await self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        last_words = lines[-1] if lines else f"exit status {self.process.returncode}"
        raise Unavailable(f"the {self.kind} ended at its start: {last_words}")


@asynccontextmanager
async def hosted(kind: str, cores: Sequence[int], arguments: Sequence[str]) -> AsyncIterator[ServiceProcess]:
    """A service in a process of its own, which ends with the block."""
    with tempfile.TemporaryFile() as errors:
        command = (sys.executable, "-m", "benchmarks.hosted", kind, ",".join(map(str, cores)), *arguments)
        # In a session of its own: Ctrl-C is for this process to handle.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=errors, start_new_session=True
        )
        assert process.stdin is not None
        try:
            yield ServiceProcess(kind, process, errors)
        finally:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
