"""A fleet under Ray: replicas serve, are restarted when they die, and leave no process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import grpc
import pytest

from coordinator.ray.fleet import running_fleet
from coordinator.settings import CoordinatorSettings
from sybil_engine.core.errors import Unavailable
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceStub
from tests.scrape import free_ports, scraped
from tests.unit.coordinator.toy import asynchronous, toy_completion

if TYPE_CHECKING:
    from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

# Ray leaves sockets and files to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

PROMPT = (40, 41, 42)


@asynccontextmanager
async def toys(fingerprint: str = "toy", sessions: int = 64) -> AsyncIterator[tuple[str, str]]:
    """Addresses of a verifier and a drafter without models, in a process of their own: Ray forks, gRPC must not."""
    command = (sys.executable, "-m", "tests.contract.coordinator", fingerprint, str(sessions))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        verifier, drafter = (await process.stdout.readline()).decode().split()
        yield verifier, drafter
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def coordinator(*argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A coordinator's process, without a home folder, as in a container."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator", "--port", "0", *argv),
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "HOME"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(process: asyncio.subprocess.Process, words: str = "\0") -> str:
    """What the process says up to the line with these words, or to its end."""
    assert process.stderr
    lines = ""
    while line := (await process.stderr.readline()).decode():
        lines += line
        if words in line:
            break
    return lines


async def generated(address: str, max_tokens: int) -> tuple[int, ...]:
    """What a client gets that goes on from the tokens it has when it is told UNAVAILABLE."""
    tokens: list[int] = []
    while True:
        message = wire.GenerateRequest(
            token_ids=wire.TokenIds(ids=PROMPT), seed=7, max_tokens=max_tokens, resume_token_ids=tokens
        )
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                stub: GenerationServiceAsyncStub = GenerationServiceStub(channel)
                async for response in stub.Generate(message):
                    tokens += (token.token_id for token in response.tokens)
                return tuple(tokens)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.1)


async def serving_address(process: asyncio.subprocess.Process) -> str:
    """Wait until the process serves; it says where."""
    lines = await said(process, "serving on")
    assert "serving on" in lines, lines
    return lines.split()[-1]


def descendants(name: str, of: int | None = None) -> list[int]:
    """Processes of that name below this one, or below another; not those that only wait to be reaped."""
    parents, names = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            parents[int(folder.name)] = int(parent)
            if state != "Z":
                names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue

    def is_below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == (of or os.getpid()):
                return True
        return False

    return [pid for pid, title in names.items() if title.startswith(name) and is_below(pid)]


@asynchronous
async def test_replicas_share_the_port_and_one_that_is_killed_comes_back() -> None:
    reports: list[str] = []
    # What other tests of this process started, such as Python's resource tracker.
    others = descendants("")
    async with toys() as (verifier, drafter):
        metrics_ports = free_ports(2)
        settings = CoordinatorSettings(
            port=0, metrics_port=metrics_ports[0], replicas=2, grace_s=3, verifiers=(verifier,), drafters=(drafter,)
        )
        async with running_fleet(settings, reports.append) as fleet:
            before = descendants("ray::Replica")
            assert len(before) == 2
            calls = [asyncio.create_task(generated(fleet.address, max_tokens=300)) for _ in range(6)]
            await asyncio.sleep(0.5)
            os.kill(before[0], signal.SIGKILL)
            assert set(await asyncio.gather(*calls)) == {toy_completion(PROMPT, 7, 300)}
            async with asyncio.timeout(30):
                await _until(lambda: len(descendants("ray::Replica")) == 2)
                # The new one serves its metrics where the old one did.
                await _until(lambda: all(map(_answers, metrics_ports)))
            assert before[1] in descendants("ray::Replica")
    assert reports[0] == "waiting for Ray to start (0 s)"
    assert set(descendants("")) <= set(others)


@asynchronous
async def test_replicas_together_admit_no_more_than_the_verifier_has_room_for() -> None:
    async with (
        toys(sessions=3) as (verifier, _),
        coordinator("--replicas", "2", "--verifiers", verifier) as process,
    ):
        address = await serving_address(process)
        # A session too many would be refused by the verifier, and end its request.
        calls = [asyncio.create_task(generated(address, max_tokens=12)) for _ in range(24)]
        assert set(await asyncio.gather(*calls)) == {toy_completion(PROMPT, 7, 12)}
        process.send_signal(signal.SIGTERM)
        await said(process)
        assert await process.wait() == 0


@asynchronous
async def test_a_signal_drains_and_exits_0() -> None:
    async with toys() as (verifier, drafter), coordinator("--verifiers", verifier, "--drafters", drafter) as process:
        address = await serving_address(process)
        assert descendants("ray::Replica", of=process.pid)
        call = asyncio.create_task(generated(address, max_tokens=150))
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert await call == toy_completion(PROMPT, 7, 150)
        rest = await said(process)
        assert await process.wait() == 0, rest
        assert "Traceback" not in rest
        assert not _group(process.pid)


@asynchronous
async def test_a_pair_that_does_not_match_ends_the_start_with_one_line() -> None:
    async with (
        toys(fingerprint="else") as (verifier, drafter),
        coordinator("--verifiers", verifier, "--drafters", drafter) as process,
    ):
        words = (await said(process)).splitlines()[-1]
        assert words.startswith("sybil serve coordinator: the draft model toy-draft and the target model toy-target")
        assert await process.wait() == 2
        assert not _group(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@asynchronous
async def test_without_ray_a_signal_also_drains_and_exits_0(number: signal.Signals) -> None:
    async with toys() as (verifier, _), coordinator("--no-ray", "--verifiers", verifier) as process:
        address = await serving_address(process)
        call = asyncio.create_task(generated(address, max_tokens=30))
        await asyncio.sleep(0.2)
        process.send_signal(number)
        assert await call == toy_completion(PROMPT, 7, 30)
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--drafter", "x:1"], "--drafter is not a flag; the nearest one is --drafters"),
        (["--port", "70000"], "--port is '70000'; it must be between 0 and 65535"),
        (["--metrics-port", "70000"], "--metrics-port is '70000'; it must be between 0 and 65535"),
        (
            ["--metrics-port", "65535", "--replicas", "2"],
            "and 2 processes need a port each from there on; it must be at most 65534",
        ),
    ],
)
@asynchronous
async def test_wrong_settings_are_one_line_and_exit_2(argv: Sequence[str], words: str) -> None:
    async with coordinator(*argv) as process:
        lines = await said(process)
        assert await process.wait() == 2
    assert lines.count("\n") == 1
    assert words in lines


@asynchronous
async def test_a_port_that_is_taken_is_refused_before_anything_starts() -> None:
    async with toys() as (verifier, _):
        with pytest.raises(Unavailable, match=f"cannot listen on {verifier}"):
            async with running_fleet(CoordinatorSettings(port=int(verifier.rpartition(":")[2])), lambda what: None):
                pass


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - processes tell nobody
        await asyncio.sleep(0.1)


def _answers(metrics_port: int) -> bool:
    try:
        return scraped(metrics_port).value("service_live", service="verifier") == 1
    except URLError:
        return False


def _group(leader: int) -> list[str]:
    """Processes that still belong to a session."""
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                left.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return left
