"""What cannot be measured is refused in one sentence, before anything starts."""

import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.arms import ArmKind
from benchmarks.plan import Plan
from benchmarks.settings import ARMS, BenchSettings
from sybil_cli.__main__ import main
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.model_choice import ModelChoice
from sybil_engine.core.types import Speculation
from sybil_engine.settings import parse


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> int:
        raise AssertionError("something was started")

    monkeypatch.setattr("sybil_cli.bench.run", start)
    for name in [each for each in os.environ if each.startswith("SYBIL_BENCH_")]:
        monkeypatch.delenv(name)


def planned(*argv: str) -> Plan:
    return Plan.of(parse(BenchSettings, argv, {}))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--arms", "off,psychic"], "--arms is 'off,psychic'; it must be one or more of off, lockstep"),
        (["--arms", ""], "--arms is ''; it must be one or more of"),
        (["--env", "mars"], "--env is 'mars'; it must be one of local, native, two-hosts, emulated, gpu"),
        (["--env", "emulated", "--verify-ms", "-1"], "--verify-ms is '-1'; it must be between 0.001 and 1000000"),
        (["--env", "emulated", "--draft-ms", "0"], "--draft-ms is '0'; it must be between 0.001 and 1000000"),
        (["--env", "emulated", "--rtt-ms", "-0.5"], "--rtt-ms is '-0.5'; it must be between 0 and 1000000"),
        (["--env", "emulated", "--row-ms", "-1"], "--row-ms is '-1'; it must be between 0 and 1000000"),
        (
            ["--env", "emulated", "--verify-ms", "1e300"],
            "--verify-ms is '1e300'; it must be between 0.001 and 1000000",
        ),
        (["--verifier-arguments=--nope"], "--verifier-arguments: --nope is not a flag"),
        (
            ["--drafter-arguments=--max-sessions,0"],
            "--drafter-arguments: --max-sessions is '0'; it must be between 1 and 65536",
        ),
        (["--rtt-ms", "1"], "--rtt-ms is for --env emulated, but --env is native"),
        (["--peers", "vllm"], "--peers is 'vllm'; it must be one or more of transformers"),
        (["--env", "emulated", "--peers", "transformers"], "cannot run under --env emulated"),
        (["--lockstep-windows", "3,0"], "--lockstep-windows is '0'; it must be whole numbers from 1 to 64"),
        (["--window", "999"], "--window is '999'; it must be between 0 and 64"),
        (["--temperatures", "-1"], "--temperatures is '-1'; it must be numbers from 0 on"),
        (["--temperatures", "warm"], "--temperatures is 'warm'; it must be a finite number"),
        (["--count", "0"], "--count is '0'; it must be at least 1"),
        (["--max-tokens", "-3"], "--max-tokens is '-3'; it must be at least 1"),
        (["--repeat", "0"], "--repeat is '0'; it must be at least 1"),
        (["--grow-target", "1M"], "embedded-target cannot be grown to 1M"),
        (["--grow-draft", "big"], "'big' is not a size to grow to"),
        (["--draft", "none"], "--draft none leaves lockstep, pipelined, hedged, auto without a draft model"),
        (["--draft-layers", "2"], "2 layers are to draft, but the draft model is embedded-draft"),
        (["--draft", "target", "--draft-layers", "13"], "13 layers of embedded-target are to draft, and it has 12"),
        (["--draft", "target:int8", "--draft-dtype", "float32"], "leave one of the types out"),
        (["--draft", "target", "--grow-draft", "50M"], "--grow-draft enlarges a draft model of its own"),
        (["--draft", "target", "--peers", "transformers-assisted"], "needs a draft model of its own"),
        (["--prompts", "/no/such/file"], "--prompts /no/such/file cannot be read"),
        (["--json", "/no/such/folder/x.json"], "--json /no/such/folder/x.json cannot be written"),
        (["--report", "/proc/no/such/folder"], "--report /proc/no/such/folder cannot be written"),
        (["--tempratures", "1"], "the nearest one is --temperatures"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sybil: ")
    assert captured.err.count("\n") == 1
    assert sentence in captured.err


def test_a_report_without_matplotlib_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reporting.outputs.find_spec", lambda package: None)
    assert main(["bench", "--peers", "none", "--report", str(tmp_path)]) == 2
    assert "--report needs the package matplotlib" in capsys.readouterr().err


def test_a_machine_without_a_gpu_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "--env", "gpu"]) == 2
    assert "--env gpu needs a CUDA device" in capsys.readouterr().err


def test_two_hosts_need_two_cores(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    assert main(["bench", "--env", "two-hosts"]) == 2
    assert "only core 3 may be used here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("nonsense", "line 2 of"), ('{"text": "x"}', "line 2 of"), ('{"prompt": ""}', "line 2 of"), ("[1]", "line 2 of")],
)
def test_a_line_that_is_no_prompt_is_named(
    line: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n{line}\n')
    assert main(["bench", "--prompts", str(file)]) == 2
    assert sentence in capsys.readouterr().err


def test_prompts_of_a_file_are_taken_a_category_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "a", "category": "x"}\n{"prompt": "b", "category": "x"}\n\n{"prompt": "c", "category": "y"}\n'
    )
    chosen = planned("--prompts", str(file), "--count", "2").prompts
    assert [(prompt.prompt, prompt.category) for prompt in chosen] == [("a", "x"), ("c", "y")]


def test_by_default_every_arm_and_every_peer_is_measured() -> None:
    default = planned()
    assert default.kinds == tuple(map(ArmKind, Speculation))
    assert tuple(each.speculation.value for each in default.kinds) == ARMS
    assert default.peers == ("transformers", "transformers-assisted", "transformers-lookup")
    assert {prompt.category for prompt in default.prompts} == {"code", "docstring", "doctest"}
    assert default.settings.temperatures == (0.0, 0.8)


def test_an_arm_may_name_its_drafters() -> None:
    kinds = planned("--arms", "off,auto@model+lookup,auto@suffix").kinds
    assert [each.drafters for each in kinds] == [(), ("model", "lookup"), ("suffix",)]
    with pytest.raises(InvalidSettings, match="each perhaps with its drafters as in auto@model"):
        planned("--arms", "automatic@model")


def test_the_target_may_draft_whole_in_part_or_quantised() -> None:
    part = planned("--draft", "target", "--draft-layers", "4", "--dtype", "bfloat16")
    assert _flags(part.drafter_arguments) == {
        "--model": "target",
        "--target": "embedded-target",
        "--layers": "4",
        "--dtype": "bfloat16",
    }
    assert part.service_settings[1] is not None
    assert part.service_settings[1].choice == part.draft == ModelChoice("embedded-target", "bfloat16", 4)
    # It has no model of its own that a peer could load.
    assert part.peers == ("transformers", "transformers-lookup")
    quantised = planned("--draft", "target:int8", "--dtype", "bfloat16")
    assert quantised.draft == ModelChoice("embedded-target", "int8")
    assert planned("--draft", "embedded-draft:int8").draft == ModelChoice("embedded-draft", "int8")
    assert planned().draft == ModelChoice("embedded-draft")


def test_emulated_devices_are_the_services_own_flags() -> None:
    emulated = planned("--env", "emulated", "--verify-ms", "30", "--draft-ms", "3", "--rtt-ms", "15")
    assert emulated.peers == ()
    assert _flags(emulated.environment.verifier_arguments) == {
        "--emulate-pass-ms": "30.0",
        "--emulate-row-ms": "0.0",
        # Each way: a round trip between drafter and verifier crosses the verifier's link twice.
        "--emulate-delay-ms": "7.5",
    }
    assert _flags(emulated.environment.drafter_arguments) == {"--emulate-pass-ms": "3.0"}
    assert emulated.environment.label.startswith("EMULATED")


def test_two_hosts_share_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    hosts = planned("--env", "two-hosts").environment
    assert (hosts.verifier_cores, hosts.drafter_cores) == ((0, 1), (2,))
    assert _flags(hosts.verifier_arguments) == {"--threads": "2"}


def test_the_longest_lockstep_window_fits_the_verifier() -> None:
    argv = planned("--lockstep-windows", "4,20").verifier_arguments
    assert _flags(argv)["--max-window-tokens"] == "20"


def _flags(argv: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(argv[::2], argv[1::2], strict=True))
