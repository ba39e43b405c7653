"""The `sybil` command against a coordinator: a scripted one on loopback, and a real fleet under Ray."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sybil_cli.__main__ import main
from sybil_engine import PROTOCOL_VERSION
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc, types_pb2
from tests.scrape import free_ports, scraped

ROOT = Path(__file__).parents[2]
PROMPT = "def fibonacci(n):\n"
SYBIL = [sys.executable, "-m", "sybil_cli"]
DRAFTED, TARGET = types_pb2.TOKEN_ORIGIN_DRAFTED, types_pb2.TOKEN_ORIGIN_TARGET


def token(token_id: int, origin: types_pb2.TokenOrigin.ValueType) -> types_pb2.CommittedToken:
    return types_pb2.CommittedToken(token_id=token_id, origin=origin, drafter="model" if origin == DRAFTED else "")


RESPONSES = [
    wire.GenerateResponse(text="    retur", tokens=[token(1, DRAFTED), token(2, DRAFTED)]),
    wire.GenerateResponse(text="n 1", tokens=[token(3, TARGET)]),
    wire.GenerateResponse(
        completion=wire.Completion(
            finish_reason=types_pb2.FINISH_REASON_STOP,
            seed=9,
            reason="hedged: it is the fastest",
            passes=[wire.PassCount(speculation=types_pb2.SPECULATION_HEDGED, passes=2)],
            usage=wire.Usage(
                prompt_tokens=4,
                completion_tokens=3,
                verify_passes=2,
                drafted_tokens=4,
                tested_tokens=2,
                accepted_tokens=2,
                time_to_first_token_ns=10**7,
                total_ns=10**8,
                verify_ns=8 * 10**7,
                overlap_ns=4 * 10**7,
            ),
        )
    ),
]


@dataclass
class ScriptedCoordinator(generation_service_pb2_grpc.GenerationServiceServicer):
    """Answers every request with the same responses, or refuses it."""

    refusal: tuple[grpc.StatusCode, str] | None = None
    refuse_after: int = 0
    hang: bool = False
    wrong_when_pipelined: bool = False
    requests: list[wire.GenerateRequest] = field(default_factory=list)
    address: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def Generate(self, request: wire.GenerateRequest, context: grpc.ServicerContext) -> Iterator[wire.GenerateResponse]:
        self.requests.append(request)
        context.add_callback(self.cancelled.set)
        for number, response in enumerate(RESPONSES):
            if self.wrong_when_pipelined and number == 1 and request.speculation == types_pb2.SPECULATION_PIPELINED:
                response = wire.GenerateResponse(text="n 2", tokens=[token(4, TARGET)])
            if self.refusal and number == self.refuse_after:
                context.abort(*self.refusal)
            yield response
            if self.hang:
                self.cancelled.wait(30)
                return

    def DescribePair(
        self, request: wire.DescribePairRequest, context: grpc.ServicerContext
    ) -> wire.DescribePairResponse:
        model = types_pb2.ModelDescription(
            model_id="scripted", parameters=10**6, dtype="float32", protocol_version=PROTOCOL_VERSION
        )
        return wire.DescribePairResponse(target=model, draft=model)


@pytest.fixture
def coordinator() -> Iterator[ScriptedCoordinator]:
    server = grpc.server(ThreadPoolExecutor(4))
    scripted = ScriptedCoordinator()
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(scripted, server)
    servicer = health.HealthServicer()
    servicer.set("loading", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield scripted
    server.stop(None).wait()


def test_text_goes_to_stdout_and_figures_to_stderr(
    coordinator: ScriptedCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "def f():\n", "--address", coordinator.address]) == 0
    captured = capsys.readouterr()
    assert captured.out == "    return 1\n"
    assert "30.0 tokens/s" in captured.err
    assert "acceptance rate 1.00" in captured.err
    assert "seed 9" in captured.err


def test_json_holds_all_of_the_completion(coordinator: ScriptedCoordinator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "def f():\n", "--address", coordinator.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "text": "    return 1",
        "token_ids": [1, 2, 3],
        "origins": ["drafted", "drafted", "target"],
        "drafters": ["model", "model", ""],
        "finish_reason": "stop",
        "seed": 9,
        "passes": {"hedged": 2},
        "reason": "hedged: it is the fastest",
        "acceptance_rule": "shared-noise",
        "acceptance_parameter": 0.0,
        "lossy": False,
        "by_drafter": [],
        "stats": {
            "tokens_per_second": 30.0,
            "time_to_first_token_ns": 10**7,
            "acceptance_rate": 1.0,
            "draft_efficiency": 0.5,
            "tokens_per_pass": 1.5,
            "overlap": 0.5,
            "wasted_draft_tokens": 2,
            "verify_passes": 2,
        },
    }


def test_every_option_reaches_the_coordinator(
    coordinator: ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYBIL_ADDRESS", coordinator.address)
    options = "--temperature 0.8 --top-p 0.9 --top-k 50 --min-p 0.1 --seed 7 --max-tokens 5 --window 3"
    options += " --acceptance top-k --acceptance-parameter 5 --drafters model,suffix"
    command = ["generate", "x", *options.split(), "--speculation", "lockstep", "--stop", "\n\n", "--stop", "#"]
    assert main(command) == 0
    (request,) = coordinator.requests
    assert request == wire.GenerateRequest(
        text="x",
        sampling=types_pb2.SamplingParams(temperature=0.8, top_k=50, top_p=0.9, min_p=0.1),
        seed=7,
        max_tokens=5,
        stop=["\n\n", "#"],
        speculation=types_pb2.SPECULATION_LOCKSTEP,
        window_tokens=3,
        acceptance_rule=types_pb2.ACCEPTANCE_RULE_TOP_K,
        acceptance_parameter=5,
        drafters=["model", "suffix"],
    )


def test_without_a_seed_every_request_has_another_one(coordinator: ScriptedCoordinator) -> None:
    for _ in range(2):
        main(["generate", "x", "--address", coordinator.address])
    one, other = coordinator.requests
    assert one.seed != other.seed
    assert not one.HasField("max_tokens")


@pytest.mark.parametrize(
    ("code", "details", "exit_code", "sentence"),
    [
        ("INVALID_ARGUMENT", "top_k is too odd", 2, "sybil: top_k is too odd"),
        ("OUT_OF_RANGE", "prompt and max_tokens need 600 tokens", 2, "sybil: prompt and max_tokens need 600 tokens"),
        ("FAILED_PRECONDITION", "the pair does not match", 2, "sybil: the pair does not match"),
        (
            "UNAVAILABLE",
            "no verifier can be reached",
            1,
            "cannot serve this now: no verifier can be reached; try again",
        ),
        ("RESOURCE_EXHAUSTED", "64 requests wait", 1, "cannot serve this now: 64 requests wait; try again later"),
        ("INTERNAL", "the sky fell", 1, "failed: the sky fell; look at its log"),
        ("UNIMPLEMENTED", "", 1, "is not a coordinator"),
    ],
)
def test_a_refusal_is_passed_on_in_words(
    coordinator: ScriptedCoordinator,
    capsys: pytest.CaptureFixture[str],
    code: str,
    details: str,
    exit_code: int,
    sentence: str,
) -> None:
    coordinator.refusal = (grpc.StatusCode[code], details)
    assert main(["generate", "x", "--address", coordinator.address]) == exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_a_coordinator_lost_half_way_says_how_to_get_the_same_again(
    coordinator: ScriptedCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.refusal, coordinator.refuse_after = (grpc.StatusCode.UNAVAILABLE, "gone"), 1
    assert main(["generate", "x", "--address", coordinator.address, "--seed", "5"]) == 1
    captured = capsys.readouterr()
    assert "lost after 2 tokens" in captured.err
    assert "--seed 5" in captured.err


def test_an_address_where_nobody_answers_says_how_to_start_a_coordinator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--address", "127.0.0.1:9"]) == 1
    assert capsys.readouterr().err == "sybil: no coordinator answers at 127.0.0.1:9; start one with `sybil up`\n"


def test_a_completion_that_takes_too_long_names_the_option(
    coordinator: ScriptedCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    coordinator.hang = True
    assert main(["generate", "x", "--address", coordinator.address, "--timeout", "0.2"]) == 1
    assert "not done within 0.2 s; allow more with --timeout" in capsys.readouterr().err
    assert coordinator.cancelled.wait(5)


@pytest.mark.parametrize(("signal_number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_generate_cancels_the_call(
    coordinator: ScriptedCoordinator, signal_number: signal.Signals, exit_code: int
) -> None:
    coordinator.hang = True
    with started(["generate", "x", "--address", coordinator.address]) as process:
        assert process.stdout is not None
        assert process.stdout.read(9) == "    retur"
        process.send_signal(signal_number)
        assert process.wait(10) == exit_code
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert coordinator.cancelled.wait(5)


def test_a_prompt_can_come_from_stdin(coordinator: ScriptedCoordinator) -> None:
    command = [*SYBIL, "generate", "-", "--address", coordinator.address]
    result = subprocess.run(command, input="def g():\n", capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout == "    return 1\n"
    assert coordinator.requests[0].text == "def g():\n"


def test_a_terminal_shows_where_each_token_comes_from(coordinator: ScriptedCoordinator) -> None:
    shown = on_a_terminal(["generate", "def f():\n", "--address", coordinator.address])
    assert "\x1b[36m    retur\x1b[0m\x1b[1;33mn 1\x1b[0m" in shown
    assert "\x1b[36mdrafted by model\x1b[0m · \x1b[1;33mthe target's own\x1b[0m" in shown
    assert "30.0 tokens/s" in shown


def test_a_reader_that_leaves_causes_no_traceback(coordinator: ScriptedCoordinator) -> None:
    command = " ".join([*SYBIL, "generate", "x", "--address", coordinator.address, "| true"])
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


@pytest.mark.parametrize(
    ("service", "printed", "exit_code"),
    [([], "SERVING\n", 0), (["--service", "loading"], "NOT_SERVING\n", 1), (["--service", "tea"], "", 1)],
)
def test_health_exits_0_only_if_serving(
    coordinator: ScriptedCoordinator,
    capsys: pytest.CaptureFixture[str],
    service: list[str],
    printed: str,
    exit_code: int,
) -> None:
    assert main(["health", coordinator.address, *service]) == exit_code
    assert capsys.readouterr().out == printed


def test_health_without_a_server_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "127.0.0.1:9"]) == 1
    assert capsys.readouterr().err == "sybil: nobody answers at 127.0.0.1:9; is the service started?\n"


def test_the_demo_shows_speed_and_exactness_and_what_to_try_next(
    coordinator: ScriptedCoordinator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sybil_cli.fleet.placed_fleet", fleet_at(coordinator))
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    assert "by the engine in this process\ndef nsmallest(" in shown
    assert re.search(r"\n\d+ tokens · \d+\.\d tokens/s · first token after", shown)
    assert "pipelined        30.0          1.00             1.00             1.50" in shown
    assert "How exact: 60 tokens compared with those of `off`, 0 differences." in shown
    assert "generate 'def fibonacci(n):' --temperature 0.8" in shown
    arms = [request.speculation for request in coordinator.requests]
    assert sorted(arms) == [1] * 10 + [2] * 10 + [3] * 10
    assert arms[:3] != arms[3:6]


def test_a_demo_that_is_not_exact_fails(
    coordinator: ScriptedCoordinator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sybil_cli.fleet.placed_fleet", fleet_at(coordinator))
    coordinator.wrong_when_pipelined = True
    assert main(["demo"]) == 1
    assert "10 differences" in capsys.readouterr().out


def fleet_at(coordinator: ScriptedCoordinator) -> Callable[..., AbstractAsyncContextManager[ScriptedCoordinator]]:
    """Something that looks like an own fleet."""

    @asynccontextmanager
    async def placed_fleet(*_: object) -> AsyncIterator[ScriptedCoordinator]:
        yield coordinator

    return placed_fleet


@dataclass(frozen=True)
class Up:
    """A running `sybil up`; `mark` is in the environment of every process that it starts."""

    process: "subprocess.Popen[str]"
    address: str
    shown: str
    remarks: Path
    mark: str


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The embedded pair under Ray, on a free port."""
    mark, remarks = uuid4().hex, tmp_path_factory.mktemp("up") / "stderr"
    arguments = ["up", "--port", "0", "--metrics-port", str(free_ports(3)[0])]
    with remarks.open("w") as stderr, started(arguments, stderr, mark) as process:
        assert process.stdout is not None
        shown = ""
        while (line := process.stdout.readline()) and "Ctrl-C stops it" not in line:
            shown += line
        found = re.search(r"--address (\S+)", shown)
        try:
            assert found, f"`sybil up` said: {shown}{remarks.read_text()}"
            yield Up(process, found[1], shown, remarks, mark)
        finally:
            process.terminate()


def generated(address: str, *arguments: str) -> dict[str, Any]:
    """What `sybil generate --json` prints."""
    command = [*SYBIL, "generate", PROMPT, "--address", address, "--json", "--max-tokens", "48", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_up_says_how_to_talk_to_it(up: Up) -> None:
    assert f"Ready at {up.address}" in up.shown
    assert f"generate 'def fibonacci(n):' --address {up.address}" in up.shown


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_a_real_fleet_gives_the_same_tokens_with_every_kind_of_speculation(up: Up, temperature: str) -> None:
    off, lockstep, pipelined = (
        generated(up.address, "--seed", "11", "--temperature", temperature, "--speculation", speculation)
        for speculation in ("off", "lockstep", "pipelined")
    )
    assert off["text"]
    assert off["token_ids"] == lockstep["token_ids"] == pipelined["token_ids"]
    assert off["text"] == lockstep["text"] == pipelined["text"]
    assert off["stats"]["acceptance_rate"] is None
    assert set(off["origins"]) == {"target"}
    assert "drafted" in lockstep["origins"]
    assert lockstep["stats"]["tokens_per_pass"] > 1


def test_a_real_coordinator_says_what_is_wrong_with_a_request(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--address", up.address, "--max-tokens", "1000000"]) == 2
    assert "lower max_tokens" in capsys.readouterr().err
    assert main(["health", up.address]) == 0


def test_a_load_test_of_a_real_fleet_finds_no_difference(up: Up, tmp_path: Path) -> None:
    load = "--concurrency 1,3 --rounds 1 --requests 3 --compare 3 --prompt-tokens 70 --max-tokens 12 --temperature 0.8"
    file = tmp_path / "load.json"
    assert main(["loadtest", "--address", up.address, "--json", str(file), *load.split()]) == 0
    document = json.loads(file.read_text())
    assert document["agreement"] == {"compared_tokens": 2 * 2 * 3 * 12, "differing_tokens": 0, "examples": []}
    assert {(row["arm"], row["completed"]) for row in document["rows"]} == {("off", 3), ("lockstep", 3), ("auto", 3)}
    assert {(row["prompt_tokens"], row["completion_tokens"]) for row in document["rows"]} == {(70, 12)}
    assert all(row["acceptance_rate"] for row in document["rows"] if row["arm"] == "lockstep")


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm, which are not here")
def test_a_client_in_another_language_gets_the_same_tokens(up: Up, pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("node-client")
    for file in (ROOT / "tests" / "node").iterdir():
        shutil.copy(file, folder)
    install = ["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    if (installed := subprocess.run(install, cwd=folder, capture_output=True, text=True)).returncode:
        pytest.skip(f"npm could not install the client: {installed.stderr.strip()[-300:]}")

    def through_node(**request: Any) -> dict[str, Any]:
        command = ["node", "client.js", up.address, str(ROOT / "protos"), json.dumps(request)]
        answer: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=folder, text=True))
        return answer

    ours = generated(up.address, "--seed", "11", "--temperature", "0.8")
    theirs = through_node(text=PROMPT, seed=11, max_tokens=48, sampling={"temperature": 0.8})
    assert (theirs["text"], theirs["token_ids"]) == (ours["text"], ours["token_ids"])
    assert theirs["target"] == "embedded-target"
    assert theirs["completion"]["usage"]["completion_tokens"] == 48
    refused = through_node(text=PROMPT, max_tokens=0)
    assert refused["status"] == "INVALID_ARGUMENT"
    assert "max_tokens is 0" in refused["details"]


def test_every_process_of_a_fleet_serves_metrics_where_up_says(up: Up) -> None:
    generated(up.address, "--speculation", "lockstep")
    ports = {name: int(port) for port, name in re.findall(r"(\d+) \((\w+)\)", up.shown)}
    assert scraped(ports["coordinator"])["generation_tokens_total"] >= 48
    assert scraped(ports["verifier"])["committed_tokens_total"] >= 48
    assert scraped(ports["drafter"])["pass_seconds_count"] > 0


# The last test of this fleet: it stops it.
def test_sigterm_drains_up_and_leaves_no_process(up: Up) -> None:
    assert len(processes_with(up.mark)) > 3
    up.process.terminate()
    assert up.process.wait(30) == 0
    assert up.process.stdout is not None
    assert up.process.stdout.read().splitlines()[-1] == "Stopped."
    assert "Traceback" not in up.remarks.read_text()
    assert none_left(up.mark)


def test_generate_without_an_address_has_a_fleet_of_its_own(tmp_path: Path) -> None:
    mark = uuid4().hex
    with (tmp_path / "stderr").open("w") as stderr:
        process = started(["generate", PROMPT, "--json", "--max-tokens", "8", "--seed", "1"], stderr, mark)
        written, _ = process.communicate(timeout=280)
    remarks = (tmp_path / "stderr").read_text()
    assert process.returncode == 0, remarks
    assert len(json.loads(written)["token_ids"]) == 8
    assert "waiting for" in remarks
    assert none_left(mark)


def processes_with(mark: str) -> list[int]:
    """Processes whose environment holds this mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def none_left(mark: str) -> bool:
    """Whether all processes with this mark are gone, or go in the next seconds."""
    until_s = time.monotonic() + 10
    while processes_with(mark) and time.monotonic() < until_s:
        time.sleep(0.1)
    return not processes_with(mark)


def started(arguments: list[str], stderr: int | IO[str] = subprocess.PIPE, mark: str = "") -> "subprocess.Popen[str]":
    """A `sybil` process whose output can be read as it comes."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SYBIL_")}
    return subprocess.Popen(
        [*SYBIL, *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, env={**environ, "MARK": mark}
    )


def on_a_terminal(arguments: list[str]) -> str:
    """What a `sybil` process writes to a terminal of eight colours."""
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "SYBIL_ADDRESS")}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*SYBIL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env={**environ, "TERM": "ansi"}
    ) as process:
        os.close(theirs)
        written = bytearray()
        while select.select([ours], [], [], 20)[0]:
            try:
                written += os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
        assert process.wait(10) == 0
    os.close(ours)
    return written.decode()
