"""The stack as people start it: built, brought up, used through its published port, broken, and taken down."""

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from sybil_engine.rpc.v1 import generation_service_pb2, generation_service_pb2_grpc, types_pb2

ROOT = Path(__file__).parents[2]
IMAGE = "sybil-engine:compose-test"
SERVICES = ("drafter", "verifier", "coordinator")
PROMPT = "def fibonacci(n):\n"
MAX_TOKENS = 500
BUILD_TIMEOUT_S = 1500.0
START_TIMEOUT_S = 900.0
COMMAND_TIMEOUT_S = 300.0

pytestmark = [pytest.mark.compose, pytest.mark.timeout(BUILD_TIMEOUT_S + START_TIMEOUT_S)]


@dataclass(frozen=True)
class ComposeProject:
    """A running compose project of its own name, on a port of its own."""

    project: str
    port: int

    def compose(self, *words: str, patience_s: float = COMMAND_TIMEOUT_S) -> str:
        options = ("--ansi", "never", "--project-name", self.project)
        return docker("compose", *options, *words, environ=self.environ, patience_s=patience_s)

    @property
    def environ(self) -> dict[str, str]:
        return os.environ | {"SYBIL_IMAGE": IMAGE, "SYBIL_PORT": str(self.port)}

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def said(self) -> str:
        return self.compose("ps", "--all") + self.compose("logs", "--no-color", "--tail", "200")

    def crash(self, service: str) -> None:
        """Kill the process inside: `docker kill` counts as a person's wish, which no restart policy undoes."""
        words = ["docker", "exec", self.container(service), "sh", "-c", "kill -9 -1"]
        # Its own status means nothing: the shell dies with the container that it ends.
        subprocess.run(words, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)

    def started_at(self, service: str) -> str:
        return docker("inspect", "--format", "{{.State.StartedAt}}", self.container(service)).strip()

    def health(self, service: str) -> str:
        return docker("inspect", "--format", "{{.State.Health.Status}}", self.container(service)).strip()

    def wait_until_healthy(self, service: str, since: str = "", patience_s: float = 300) -> None:
        """Wait for a service that started after `since` to report itself healthy."""
        deadline = time.monotonic() + patience_s
        while not (self.started_at(service) != since and self.health(service) == "healthy"):
            assert time.monotonic() < deadline, f"{service} is {self.health(service)} after {patience_s} s"
            time.sleep(0.5)


@dataclass(frozen=True)
class TimedCompletion:
    token_ids: tuple[int, ...]
    completion: generation_service_pb2.Completion
    arrivals_s: tuple[float, ...]


def docker(*words: str, environ: dict[str, str] | None = None, patience_s: float = COMMAND_TIMEOUT_S) -> str:
    """Run one docker command and return what it printed; its output on failure becomes the test's message."""
    done = subprocess.run(
        ["docker", *words], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=patience_s, check=False
    )
    assert done.returncode == 0, f"docker {shlex.join(words)} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def image() -> str:
    """Build the image; SYBIL_BUILD_ARGS holds what `docker build` needs on this machine, if anything."""
    words = shlex.split(os.environ.get("SYBIL_BUILD_ARGS", ""))
    docker("build", "--tag", IMAGE, *words, ".", environ=dict(os.environ), patience_s=BUILD_TIMEOUT_S)
    return IMAGE


@pytest.fixture(scope="module")
def stack(image: str) -> Iterator[ComposeProject]:
    stack = ComposeProject(project=f"sybil-test-{os.getpid()}", port=free_port())
    try:
        try:
            stack.compose("up", "--detach", "--no-build", "--wait", patience_s=START_TIMEOUT_S)
        except Exception:
            print(stack.said())
            raise
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")


@pytest.fixture(autouse=True)
def logs(stack: ComposeProject) -> Iterator[None]:
    """Print what the services said, which pytest shows where the test failed."""
    yield
    print(stack.said())


def request(max_tokens: int = MAX_TOKENS) -> generation_service_pb2.GenerateRequest:
    return generation_service_pb2.GenerateRequest(
        text=PROMPT,
        sampling=types_pb2.SamplingParams(temperature=0.7),
        seed=20,
        max_tokens=max_tokens,
        ignore_end_tokens=True,
        speculation=types_pb2.SPECULATION_PIPELINED,
    )


def generate(
    stack: ComposeProject, max_tokens: int = MAX_TOKENS, once_it_runs: Callable[[], None] = lambda: None
) -> TimedCompletion:
    """Generate through the published port, noting when each response arrived; call `once_it_runs` at the first."""
    token_ids: list[int] = []
    arrivals_s: list[float] = []
    completion = generation_service_pb2.Completion()
    with ThreadPoolExecutor(1) as beside, grpc.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        for response in stub.Generate(request(max_tokens), timeout=COMMAND_TIMEOUT_S):
            if not arrivals_s:
                meanwhile = beside.submit(once_it_runs)
            token_ids.extend(token.token_id for token in response.tokens)
            arrivals_s.append(time.monotonic())
            completion = response.completion
        meanwhile.result()
    return TimedCompletion(tuple(token_ids), completion, tuple(arrivals_s))


@pytest.fixture(scope="module")
def undisturbed(stack: ComposeProject) -> TimedCompletion:
    return generate(stack)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_without_privileges_on_a_read_only_file_system(stack: ComposeProject, service: str) -> None:
    assert stack.compose("exec", "-T", service, "id", "-u").strip() == "10001"
    status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert {fields[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd")} == {""}
    mounts = [line.split() for line in stack.compose("exec", "-T", service, "cat", "/proc/mounts").splitlines()]
    (root_options,) = (options for _, target, _, options, *_ in mounts if target == "/")
    assert "ro" in root_options.split(",")


def test_only_the_coordinators_port_is_published_and_on_loopback(stack: ComposeProject) -> None:
    published = {service: docker("port", stack.container(service)).split() for service in SERVICES}
    assert published == {
        "drafter": [],
        "verifier": [],
        "coordinator": ["50051/tcp", "->", f"127.0.0.1:{stack.port}"],
    }


def test_the_published_port_generates_with_tokens_from_the_drafter(undisturbed: TimedCompletion) -> None:
    assert len(undisturbed.token_ids) == MAX_TOKENS
    assert undisturbed.completion.finish_reason == types_pb2.FINISH_REASON_LENGTH
    assert undisturbed.completion.usage.accepted_tokens > 0


def test_a_killed_drafter_costs_speed_and_changes_no_token(stack: ComposeProject, undisturbed: TimedCompletion) -> None:
    drafter = stack.container("drafter")
    killed_s: list[float] = []

    def kill() -> None:
        docker("kill", drafter)
        killed_s.append(time.monotonic())

    survived = generate(stack, once_it_runs=kill)
    assert killed_s[0] < survived.arrivals_s[-1], "the kill came after the generation"
    assert survived.token_ids == undisturbed.token_ids
    assert survived.completion.usage.accepted_tokens < undisturbed.completion.usage.accepted_tokens


def test_without_a_drafter_generation_goes_on_with_the_same_tokens(
    stack: ComposeProject, undisturbed: TimedCompletion
) -> None:
    alone = generate(stack, max_tokens=50)
    assert alone.token_ids == undisturbed.token_ids[:50]
    assert alone.completion.usage.accepted_tokens == 0


def test_a_drafter_that_is_started_again_is_used_again(stack: ComposeProject, undisturbed: TimedCompletion) -> None:
    docker("start", stack.container("drafter"))
    assert_drafting_resumes(stack, undisturbed)


@pytest.mark.parametrize("service", SERVICES)
def test_a_crashed_process_is_restarted_and_the_stack_recovers(
    stack: ComposeProject, undisturbed: TimedCompletion, service: str
) -> None:
    since = stack.started_at(service)
    stack.crash(service)
    stack.wait_until_healthy(service, since)
    assert_drafting_resumes(stack, undisturbed)


def assert_drafting_resumes(stack: ComposeProject, undisturbed: TimedCompletion, patience_s: float = 300) -> None:
    """Wait until generation uses the drafter again; its tokens are the same all along."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            resumed = generate(stack, max_tokens=50)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:  # the one that tells a client to try again
                raise
        else:
            assert resumed.token_ids == undisturbed.token_ids[:50]
            if resumed.completion.usage.accepted_tokens > 0:
                return
        assert time.monotonic() < deadline, f"no drafted tokens {patience_s} s after the service's return"
        time.sleep(0.5)
