"""Settings: one declaration is flag, variable and help; nothing unknown passes."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from enum import Enum
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.settings import Constraint, Port, Settings, Words, parse

PREFIX = "SYBIL_ORACLE_"


class Numerics(Enum):
    EXACT = "exact"
    FAST = "fast"


class OracleSettings(Settings):
    """Foresee the next token."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    model: str = Field(default="embedded", description="a folder or a hub id")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(default="auto", description="of the weights")
    numerics: Numerics = Numerics.EXACT
    port: Port = Field(default=50099, description="0 picks a free one")
    threads: int | None = None
    patience_s: float = Field(default=0.5, ge=0, description="at 100 % load")
    rest_s: float = Field(default=1.0, gt=0)
    verbose: bool = False
    peers: Words = ()
    json_file: str = Field(default="", alias="json")
    sizes: Annotated[Words, Constraint("whole numbers", lambda each: all(size.isdigit() for size in each))] = ("1", "2")


class DemandingSettings(Settings):
    """Want a model."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    model: str


def read(argv: Sequence[str] = (), **environ: str) -> OracleSettings:
    return parse(OracleSettings, argv, environ)


def refusal(argv: Sequence[str] = (), **environ: str) -> str:
    with pytest.raises(InvalidSettings) as caught:
        read(argv, **environ)
    return str(caught.value)


def test_nothing_given_means_the_defaults() -> None:
    assert read() == OracleSettings()


@pytest.mark.parametrize(
    ("flag", "raw", "expected"),
    [
        ("model", "gpt2", OracleSettings(model="gpt2")),
        ("dtype", "bfloat16", OracleSettings(dtype="bfloat16")),
        ("numerics", "fast", OracleSettings(numerics=Numerics.FAST)),
        ("port", "0", OracleSettings(port=0)),
        ("threads", "2", OracleSettings(threads=2)),
        ("patience-s", "1e-3", OracleSettings(patience_s=0.001)),
        ("json", "f", OracleSettings(json="f")),
        ("peers", "a:1, b:2,", OracleSettings(peers=("a:1", "b:2"))),
    ],
)
def test_a_flag_and_its_variable_say_the_same(flag: str, raw: str, expected: OracleSettings) -> None:
    variable = PREFIX + flag.upper().replace("-", "_")
    assert read([f"--{flag}", raw]) == expected
    assert read([f"--{flag}={raw}"]) == expected
    assert read(**{variable: raw}) == expected


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "1"])
def test_a_switch_is_turned_on_by_its_flag_or_a_word(word: str) -> None:
    assert read(["--verbose"]).verbose
    assert read(SYBIL_ORACLE_VERBOSE=word).verbose


@pytest.mark.parametrize("word", ["false", "NO", "off", "0"])
def test_a_switch_is_turned_off_by_its_flag_or_a_word(word: str) -> None:
    assert not read(["--no-verbose"], SYBIL_ORACLE_VERBOSE="true").verbose
    assert not read(SYBIL_ORACLE_VERBOSE=word).verbose


@given(flag=st.integers(0, 65535), variable=st.integers(0, 65535))
def test_a_flag_wins_over_its_variable(flag: int, variable: int) -> None:
    assert read(["--port", str(flag)], SYBIL_ORACLE_PORT=str(variable)).port == flag


def test_an_empty_variable_counts_as_unset() -> None:
    assert read(SYBIL_ORACLE_PORT="", SYBIL_ORACLE_MODEL="") == OracleSettings()


def test_variables_of_others_are_not_ours() -> None:
    assert read(SYBIL_PORT="x", PATH="/bin", SYBIL_ORACL_MODEL="x") == OracleSettings()


def test_an_unknown_flag_is_refused_with_the_nearest_known_one() -> None:
    assert refusal(["--modle", "gpt2"]) == "--modle is not a flag; the nearest one is --model"
    assert refusal(["--prot=1"]) == "--prot is not a flag; the nearest one is --port"
    assert refusal(["--no-verbos"]) == "--no-verbos is not a flag; the nearest one is --no-verbose"


def test_an_unknown_variable_is_refused_with_the_nearest_known_one() -> None:
    said = refusal(SYBIL_ORACLE_MODLE="gpt2")
    assert said == "SYBIL_ORACLE_MODLE is not a setting; the nearest one is SYBIL_ORACLE_MODEL"


def test_a_flag_is_never_guessed_from_its_beginning() -> None:
    assert refusal(["--mod", "gpt2"]) == "--mod is not a flag; the nearest one is --model"


def test_a_word_without_a_flag_is_refused() -> None:
    assert "gpt2 is not a flag" in refusal(["gpt2"])


def test_a_flag_without_its_value_is_refused() -> None:
    assert "--port" in refusal(["--port"])


@pytest.mark.parametrize(
    ("flag", "raw", "allowed"),
    [
        ("port", "http", "a whole number"),
        ("port", "1.5", "a whole number"),
        ("port", "65536", "between 0 and 65535"),
        ("port", "-1", "between 0 and 65535"),
        ("threads", "many", "a whole number"),
        ("patience-s", "soon", "a finite number"),
        ("patience-s", "nan", "a finite number"),
        ("patience-s", "inf", "a finite number"),
        ("patience-s", "-0.1", "at least 0"),
        ("rest-s", "0", "above 0"),
        ("dtype", "int4", "one of auto, float32, bfloat16"),
        ("numerics", "EXACT", "one of exact, fast"),
        ("sizes", "1,two", "whole numbers"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(flag: str, raw: str, allowed: str) -> None:
    variable = PREFIX + flag.upper().replace("-", "_")
    assert refusal([f"--{flag}={raw}"]) == f"--{flag} is {raw!r}; it must be {allowed}"
    assert refusal(**{variable: raw}) == f"{variable} is {raw!r}; it must be {allowed}"


def test_a_bad_variable_is_refused_even_where_a_flag_wins() -> None:
    assert "SYBIL_ORACLE_PORT is 'x'" in refusal(["--port", "1"], SYBIL_ORACLE_PORT="x")


def test_a_switch_takes_no_other_word() -> None:
    assert refusal(SYBIL_ORACLE_VERBOSE="maybe") == "SYBIL_ORACLE_VERBOSE is 'maybe'; it must be true or false"


def test_a_setting_without_a_default_must_be_given() -> None:
    with pytest.raises(InvalidSettings, match="--model is missing; give it, or set SYBIL_ORACLE_MODEL"):
        parse(DemandingSettings, [], {})
    assert parse(DemandingSettings, [], {"SYBIL_ORACLE_MODEL": "gpt2"}).model == "gpt2"


def test_a_value_given_in_code_keeps_the_same_rules() -> None:
    assert OracleSettings(port=1, peers=("a",)).peers == ("a",)
    with pytest.raises(InvalidSettings, match="port is 65536; it must be between 0 and 65535"):
        OracleSettings(port=65536)
    with pytest.raises(InvalidSettings, match="prot is not a setting; the nearest one is port"):
        OracleSettings(prot=1)  # type: ignore[call-arg]


def test_making_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYBIL_ORACLE_PORT", "1")
    assert OracleSettings().port == 50099


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OracleSettings().port = 1


def test_help_names_every_flag_its_purpose_and_its_default() -> None:
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as left:
        parse(OracleSettings, ["--help"], {}, program="sybil serve oracle")
    said = " ".join(printed.getvalue().split())
    assert left.value.code == 0
    for part in (
        "Usage: sybil serve oracle",
        "Foresee the next token.",
        "--model TEXT a folder or a hub id; default: embedded",
        "--dtype CHOICE of the weights; one of auto, float32, bfloat16; default: auto",
        "one of exact, fast; default: exact",
        "--port NUMBER 0 picks a free one; between 0 and 65535; default: 50099",
        "at 100 % load; at least 0; default: 0.5",
        "--verbose / --no-verbose default: false",
        "--json TEXT default: left out",
        "--peers LIST default: left out",
        "--sizes LIST whole numbers; default: 1,2",
        "SYBIL_ORACLE_MODEL is the first",
    ):
        assert part in said
