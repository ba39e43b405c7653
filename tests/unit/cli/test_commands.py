"""Mistakes end in one sentence that says what to do, and in an exit code that says whose mistake it was."""

import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sybil_cli import serve as serve_module
from sybil_cli.__main__ import main
from sybil_cli.fleet import check
from sybil_cli.parameters import Address
from sybil_engine.core.errors import InvalidRequest, ModelNotFound, PairMismatch, SybilError, Unavailable
from sybil_engine.core.types import ModelDescription
from sybil_engine.models.presets import Pair, pair_of
from sybil_engine.prompts import Prompt, mixed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["generate", "x", "--sede", "1"],
            "No such option '--sede'. Did you mean '--seed'? See `sybil generate --help`.",
        ),
        (["generate", "x", "--temprature=1"], "Did you mean one of: '--target', '--temperature'?"),
        (["genrate", "x"], "No such command 'genrate'. Did you mean 'generate'? See `sybil --help`."),
        (["serve", "verfier"], "No such command 'verfier'. Did you mean 'verifier'?"),
        (["up", "--prot", "1"], "--prot is not a flag; the nearest one is --port"),
        (["generate"], "Missing argument 'PROMPT'"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "x", "--seed", "one"], "Invalid value for '--seed'"),
        (["generate", "x", "--seed", "-1"], "seed is -1; it must"),
        (["generate", "x", "--max-tokens", "0"], "max_tokens is 0; it must be at least 1"),
        (["generate", "x", "--temperature", "nan"], "temperature is nan; it must"),
        (["generate", "x", "--temperature", "-1"], "temperature is -1.0; it must"),
        (["generate", "x", "--top-p", "0"], "top_p is 0.0; it must"),
        (["generate", "x", "--top-k", "-2"], "top_k is -2; it must"),
        (["generate", "x", "--min-p", "1"], "min_p is 1.0; it must"),
        (["generate", "x", "--window", "-1"], "window_tokens is -1; it must be between 1 and 64, or 0"),
        (["generate", "x", "--window", "65"], "window_tokens is 65; it must be between 1 and 64, or 0"),
        (["generate", "x", "--stop", ""], "a stop string is empty"),
        (["generate", "x", "--speculation", "psychic"], "'psychic' is not one of 'off', 'lockstep', 'pipelined'"),
        (["generate", "x", "--preset", "gpt3"], "'gpt3' is not one of 'embedded', 'gpt2'"),
        (["generate", "x", "--address", "nowhere"], "'nowhere' is not an address; write HOST:PORT"),
        (["generate", "x", "--address", "h:1", "--target", "t"], "leave them out, or leave out --address"),
        (["generate", "x", "--address", "h:1", "--draft-layers", "2"], "leave them out, or leave out --address"),
        (["generate", "x", "--target", "t"], "--target t needs a --draft model"),
        (["generate", "x", "--draft-layers", "2"], "2 layers are to draft, but the draft model is embedded-draft"),
        (["generate", "x", "--draft-layers", "-1"], "Invalid value for '--draft-layers'"),
        (["generate", "x", "--draft", "target:int4"], "'target:int4' is no draft model"),
        (["generate", "x", "--draft", "target", "--draft-layers", "13"], "and it has 12; choose from 1 to 12"),
        (["demo", "--draft-layers", "2"], "2 layers are to draft, but the draft model is embedded-draft"),
        (["up", "--draft-layers", "2"], "2 layers are to draft, but the draft model is embedded-draft"),
        (["up", "--draft", "target:int8", "--draft-dtype", "float32"], "leave one of the types out"),
        (["generate", "x", "--timeout", "0"], "Invalid value for '--timeout'"),
        (["generate", "x", "--timeout", "nan"], "Invalid value for '--timeout'"),
        (["generate", "x", "--timeout", "inf"], "Invalid value for '--timeout'"),
        (["health", "localhost:99999"], "is not an address"),
        (["health"], "Missing argument 'ADDRESS'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYBIL_ADDRESS", raising=False)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sybil: ")
    assert captured.err.count("\n") == 1
    assert sentence in captured.err


def test_stdin_that_is_no_text_is_refused_by_its_first_bad_byte(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"def f\xff")))
    assert main(["generate", "-", "--address", "h:1"]) == 2
    assert "not valid UTF-8 at byte 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (InvalidRequest("m"), 2),
        (ModelNotFound("m"), 2),
        (PairMismatch("m"), 2),
        (Unavailable("m"), 1),
        (SybilError("m"), 1),
    ],
)
def test_the_kind_of_an_error_decides_the_exit_code(
    error: SybilError, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(serve_module, "run_service", fail)
    assert main(["serve", "drafter"]) == exit_code


@pytest.mark.parametrize(
    ("written", "meant"),
    [("h:1", "h:1"), (":50051", "127.0.0.1:50051"), ("50051", "127.0.0.1:50051"), ("[::1]:7", "[::1]:7")],
)
def test_an_address_may_leave_out_this_machine(written: str, meant: str) -> None:
    assert Address().convert(written, None, None) == meant


def test_serve_hands_every_flag_to_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[str]]] = []

    def run(package: str, argv: list[str]) -> int:
        seen.append((package, argv))
        return 7

    monkeypatch.setattr(serve_module, "run_service", run)
    assert main(["serve", "drafter", "--model", "m", "--help", "--sede=3", "-x", "--", "y"]) == 7
    assert seen == [("drafter_service", ["--model", "m", "--help", "--sede=3", "-x", "--", "y"])]


def test_a_pair_is_the_presets_unless_its_models_are_named() -> None:
    assert pair_of() == Pair("embedded-target", "embedded-draft")
    assert pair_of().is_embedded
    assert pair_of("gpt2").target == "openai-community/gpt2-medium"
    assert pair_of(None, "t", "d") == Pair("t", "d")
    assert pair_of(draft="d") == Pair("embedded-target", "d")
    assert pair_of("gpt2", "t") == Pair("t", "openai-community/gpt2")
    assert pair_of("gpt2", None, "target", 6) == Pair("openai-community/gpt2-medium", "target", 6)
    assert not pair_of(draft="target").is_embedded


def description(model: str, **parts: str) -> ModelDescription:
    return ModelDescription(
        model_id=model,
        architecture="LlamaForCausalLM",
        parameters=1,
        vocabulary_size=8,
        tokenizer_fingerprint=f"fingerprint-of-{model}",
        tokenizer_parts=parts,
        end_token_ids=(0,),
        begin_token_id=None,
        context_tokens=16,
        dtype="float32",
        device="cpu",
    )


def test_a_mismatch_names_both_fingerprints_and_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {
        "large": description("large", merges="1", vocabulary="2"),
        "small": description("small", merges="1", vocabulary="3"),
    }
    loading = ModuleType("sybil_engine.models.loading")
    loading.describe = lambda ref, layers=0: described[ref]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sybil_engine.models.loading", loading)
    with pytest.raises(PairMismatch) as raised:
        check(Pair("large", "small"))
    message = str(raised.value)
    assert "fingerprint-of-large" in message
    assert "fingerprint-of-small" in message
    assert "vocabulary" in message
    assert "merges" not in message
    check(Pair("large", "none"))


def test_a_mixture_of_prompts_starts_with_the_first_and_has_every_category() -> None:
    prompts = [
        Prompt(f"{category}-{number}", category, "m", "p")
        for category in ("code", "docstring", "doctest")
        for number in (1, 2, 3)
    ]
    assert [prompt.id for prompt in mixed(prompts, 5)] == [
        "code-1",
        "docstring-1",
        "doctest-1",
        "code-2",
        "docstring-2",
    ]


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["health", "--help"], ["up", "--help"]])
def test_help_and_health_import_neither_torch_nor_ray_nor_transformers(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from sybil_cli.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'transformers', 'numpy'} & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert result.stdout.splitlines()[-1] == "[]"
