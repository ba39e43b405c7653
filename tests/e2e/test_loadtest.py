"""`sybil loadtest` against a scripted coordinator: what it reports, what it refuses, and a server that dies."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection

from sybil_cli.__main__ import main
from sybil_engine import PROTOCOL_VERSION
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import generation_service_pb2_grpc, types_pb2

NAME = "sybil_engine.rpc.v1.GenerationService"
QUICK = "--concurrency 1,2 --rounds 1 --requests 4 --compare 2 --max-tokens 8 --prompt-tokens 20"


@dataclass
class ScriptedGeneration(generation_service_pb2_grpc.GenerationServiceServicer):
    """Answers with tokens that depend on prompt and seed alone, two a message."""

    refuse_every: int = 0
    die_after: int = 0
    stop_client_after: int = 0
    wrong_when: types_pb2.Speculation.ValueType = types_pb2.SPECULATION_UNSPECIFIED
    requests: list[wire.GenerateRequest] = field(default_factory=list)
    server: grpc.Server | None = None

    def Generate(self, request: wire.GenerateRequest, context: grpc.ServicerContext) -> Iterator[wire.GenerateResponse]:
        self.requests.append(request)
        if self.die_after and len(self.requests) > self.die_after and self.server:
            self.server.stop(None)
        if len(self.requests) == self.stop_client_after:
            os.kill(os.getpid(), signal.SIGTERM)
        timed = request.max_tokens > 1
        if timed and self.refuse_every and len(self.requests) % self.refuse_every == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "64 requests wait")
        wrong = request.speculation == self.wrong_when
        for number in range(0, request.max_tokens, 2):
            time.sleep(0.003)
            ids = [(request.seed + number) % 1000 + wrong, 7]
            yield wire.GenerateResponse(
                tokens=[types_pb2.CommittedToken(token_id=each, origin=types_pb2.TOKEN_ORIGIN_TARGET) for each in ids]
            )
        usage = wire.Usage(
            prompt_tokens=20, completion_tokens=request.max_tokens, cached_prompt_tokens=10, queue_ns=5 * 10**6
        )
        passes = [wire.PassCount(speculation=types_pb2.SPECULATION_LOCKSTEP, passes=3)]
        ending = wire.Completion(
            finish_reason=types_pb2.FINISH_REASON_LENGTH,
            seed=request.seed,
            speculation=request.speculation,
            usage=usage,
            passes=passes,
        )
        yield wire.GenerateResponse(completion=ending)

    def DescribePair(
        self, request: wire.DescribePairRequest, context: grpc.ServicerContext
    ) -> wire.DescribePairResponse:
        model = types_pb2.ModelDescription(model_id="scripted", context_tokens=512, protocol_version=PROTOCOL_VERSION)
        return wire.DescribePairResponse(target=model, draft=model)


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedGeneration, str]]:
    server = grpc.server(ThreadPoolExecutor(8))
    servicer = ScriptedGeneration(server=server)
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    reflection.enable_server_reflection((NAME, reflection.SERVICE_NAME), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer, address
    server.stop(None).wait()


def load_tested(address: str, tmp_path: Path, arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status and what --json says."""
    file = tmp_path / "load.json"
    status = main(["loadtest", "--address", address, "--json", str(file), *arguments.split()])
    return status, json.loads(file.read_text()) if file.exists() else {}


def test_every_arm_gets_the_same_load_and_the_report_holds_every_figure(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer, address = scripted
    report = tmp_path / "new" / "report"
    status, document = load_tested(address, tmp_path, f"{QUICK} --slo ttft=1s --processes 2 --report {report}")
    assert (status, document["cut_short"]) == (0, "")
    # Two levels, two arms against the first one, two requests that are compared, eight tokens each.
    assert document["agreement"]["compared_tokens"] == 2 * 2 * 2 * 8
    assert document["agreement"]["differing_tokens"] == 0
    assert len(document["rows"]) == 6
    for row in document["rows"]:
        assert (row["completed"], row["requests"], row["good_share"]) == (4, 4, 1)
        assert row["client_processes"] == row["amount"]
        assert (row["completion_tokens"], row["cached_prompt_share"], row["queue_ms"]["p99"]) == (8, 0.5, 5)
        # Two tokens a message and 3 ms between them.
        assert 1.4 < row["itl_ms"]["p50"] < 10
        assert row["passes"] == {"lockstep": 12}
    seeds = {(request.speculation, request.seed) for request in servicer.requests if request.max_tokens == 8}
    assert len(seeds) == 3 * 2 * (2 + 4)
    assert len({seed for _, seed in seeds}) == 2 * (2 + 4)
    page = (report / "index.html").read_text()
    assert page.count("data:image/png") == 6
    shown = capsys.readouterr().out
    assert "64 tokens compared between the arms, 0 differences" in shown
    assert "2 processes" in shown


def test_a_client_that_is_too_busy_gets_a_process_more(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    arguments = "--concurrency 4 --rounds 3 --requests 4 --compare 0 --max-tokens 8 --prompt-tokens 20 --arms off"
    used = {}
    for limit in (0.0, 1.1):
        monkeypatch.setattr("loadtest.crew.BUSY_LIMIT", limit)
        used[limit] = load_tested(scripted[1], tmp_path, arguments)[1]["rows"][0]["client_processes"]
    assert used == {0.0: 2, 1.1: 1}


def test_every_level_says_how_much_faster_each_arm_is_and_auto_than_the_best_of_the_others(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--concurrency 1,2 --requests 2,4 --rounds 3 --max-tokens 8 --prompt-tokens 20 --compare 0"
    status, document = load_tested(scripted[1], tmp_path, f"{arguments} --arms off,lockstep,pipelined,hedged,auto")
    assert status == 0
    for row in document["rows"]:
        ratio = row["ratio_to_first_arm"]
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
        assert (row["requests"], len(row["tokens_per_second_by_round"])) == (6 * row["amount"], 3)
        assert (row["ratio_to_best_fixed_arm"] is None) is (row["arm"] != "auto")
    shown = capsys.readouterr().out
    for heading in ("x off", "x 1 at once", "x best fixed arm"):
        assert heading in shown


def test_arms_that_differ_are_counted_and_fail(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted[0].wrong_when = types_pb2.SPECULATION_LOCKSTEP
    status, document = load_tested(scripted[1], tmp_path, f"{QUICK} --arms off,lockstep")
    assert status == 1
    assert document["agreement"]["differing_tokens"] == 2 * 2 * 4
    assert "comparison, request 0: not as off" in capsys.readouterr().out


def test_refused_and_cancelled_requests_are_no_failures_of_the_test(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path
) -> None:
    servicer, address = scripted
    servicer.refuse_every = 5
    arguments = "--rate 40 --duration-s 1 --rounds 1 --arms off --compare 0 --cancel 0.5 --max-tokens 8 --deadline-s 5"
    status, document = load_tested(address, tmp_path, arguments)
    (row,) = document["rows"]
    assert status == 0
    assert row["requests"] == row["completed"] + row["refused"] + row["cancelled"]
    assert row["refused"] > 3
    assert row["cancelled"] > 5
    assert "RESOURCE_EXHAUSTED: 64 requests wait" in row["errors"]


def test_a_server_that_dies_half_way_leaves_a_report_of_what_there_is(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer, address = scripted
    # 8 requests find out how long tokens are, 2 an arm and level are compared, 4 of one arm timed, 2 of the next.
    servicer.die_after = 8 + 2 * 2 * 2 + 4 + 2
    report = tmp_path / "report"
    status, document = load_tested(address, tmp_path, f"{QUICK} --arms off,auto --report {report}")
    assert status == 1
    assert "was lost" in document["cut_short"]
    assert "was lost" in (report / "index.html").read_text()
    assert [row["completed"] for row in document["rows"]] == [4, 2]
    assert "this is what was measured until then" in capsys.readouterr().out


def test_a_test_that_is_stopped_half_way_leaves_a_report_of_what_there_is(
    scripted: tuple[ScriptedGeneration, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servicer, address = scripted
    # As above, but after all of one arm.
    servicer.stop_client_after = 8 + 2 * 2 * 2 + 4 + 1
    status, document = load_tested(address, tmp_path, f"{QUICK} --arms off,auto")
    assert status == 128 + signal.SIGTERM
    assert "was stopped in part" in document["cut_short"]
    assert [row["completed"] for row in document["rows"]] == [4]
    assert "this is what was measured until then" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--rate 0", "--rate is '0'; it must be requests a second"),
        ("--rate fast", "--rate"),
        ("--concurrency 0", "--concurrency is '0'; it must be numbers of users"),
        ("--slo ttft=soon", "'ttft=soon' in --slo is not a limit"),
        ("--prompt-tokens 9-3", "--prompt-tokens"),
        ("--ramp-s 20", "--ramp-s 20 leaves nothing to measure"),
        ("--requests 3", "--requests 3 is fewer than 16 users need"),
        ("--requests 16,32", "--requests has 2 numbers for 3 levels"),
        ("--requests few", "--requests"),
        ("--rate 0.05", "--rate 0.05 is less than one request in the 10 s that are measured"),
        ("--rate nan", "--rate"),
        ("--slo ttft=0s", "a limit of 0"),
        ("--rate 1 --concurrency 4", "--concurrency changes nothing with --rate"),
        ("--requests 16 --duration-s 5", "--duration-s changes nothing with --requests"),
        ("--shared-share 0.5", "--shared-share changes nothing without --shared-prefix"),
        ("--prompts FILE --prompt-tokens 150", "--prompt-tokens changes nothing with a file of prompts"),
        ("--arms off,fast", "--arms"),
        ("--prompts nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("--prompts code,other", "--prompts is 'code,other'"),
        ("--report /proc/none", "/proc/none cannot be written"),
        ("--json /proc/none", "/proc/none cannot be written"),
        ("--prompt-tokens 500 --max-tokens 100", "do not fit the context of 512"),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_sent(
    scripted: tuple[ScriptedGeneration, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    servicer, address = scripted
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hello"}')
    arguments = arguments.replace("FILE", str(tmp_path / "prompts.jsonl"))
    assert main(["loadtest", "--address", address, *arguments.split()]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert not servicer.requests


def test_an_address_where_nobody_serves_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "--address", "127.0.0.1:9"]) == 2
    assert "nobody answers at 127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["sybil_engine.rpc.v1.VerifierService"], "serves sybil_engine.rpc.v1.VerifierService, not"),
        (None, "does not say what it serves"),
    ],
)
def test_another_service_is_named(capsys: pytest.CaptureFixture[str], names: list[str] | None, words: str) -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    if names:
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    assert main(["loadtest", "--address", address]) == 2
    assert words in capsys.readouterr().err
    server.stop(None).wait()
