"""The target's own weights draft: all of them, its first layers, or all in 8 bits."""

from collections.abc import Iterator
from typing import Any

import pytest

from sybil_engine.core.completion import Completion, Stats
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.models.loading import describe
from sybil_local import LocalEngine
from tests.unit.models.random_models import save_folder

PROMPT = [5, 1, 8, 44, 2, 90, 17, 33]
TOKENS = 48
LAYERS = 3
TEMPERATURES = (0.0, 0.8)
SMALL: dict[str, Any] = {"max_sessions": 1, "context_tokens": 256, "traced": False, "drafters": ["model"]}


@pytest.fixture(scope="module", params=["embedded-target", "llama", "gpt2"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "embedded-target":
        return "embedded-target"
    return str(save_folder(tmp_path_factory.mktemp("target"), request.param, layers=LAYERS))


def completions(engine: LocalEngine, speculation: str) -> list[Completion]:
    asked: dict[str, Any] = {"max_tokens": TOKENS, "seed": 3, "ignore_end_tokens": True, "speculation": speculation}
    return [engine.generate(PROMPT, temperature=temperature, **asked) for temperature in TEMPERATURES]


@pytest.fixture(scope="module")
def plain(target: str) -> Iterator[list[tuple[int, ...]]]:
    """What the target writes alone."""
    with LocalEngine(target, None, **SMALL) as engine:
        yield [each.token_ids for each in completions(engine, "off")]


@pytest.mark.parametrize("counted", [False, True], ids=["all", "all layers counted"])
def test_the_whole_target_as_its_own_drafter_is_always_right(
    target: str, plain: list[tuple[int, ...]], counted: bool
) -> None:
    layers = (12 if target == "embedded-target" else LAYERS) if counted else 0
    with LocalEngine(target, "target", draft_layers=layers, **SMALL) as engine:
        done = completions(engine, "lockstep")
        assert engine.draft is not None
        assert engine.draft.parameters == engine.target.parameters
    assert [each.token_ids for each in done] == plain
    # How many tokens are drafted depends on the machine's load; that all are right does not.
    assert Stats.of(*(each.ending.usage for each in done)).acceptance_rate == 1.0


@pytest.mark.parametrize(
    ("draft", "layers", "speculation"),
    [("target", 1, "lockstep"), ("target", 2, "hedged"), ("target:int8", 0, "pipelined")],
)
def test_a_part_of_the_target_changes_no_token(
    target: str, plain: list[tuple[int, ...]], draft: str, layers: int, speculation: str
) -> None:
    with LocalEngine(target, draft, draft_layers=layers, **SMALL) as engine:
        done = completions(engine, speculation)
        assert engine.draft is not None
        assert engine.draft.dtype == ("int8" if draft == "target:int8" else "float32")
        assert engine.draft.model_id == describe(target, layers=layers).model_id
    assert [each.token_ids for each in done] == plain
    usage = [each.ending.usage for each in done]
    assert sum(each.tested_tokens for each in usage) > 0, "drafts that are never judged prove nothing"


def test_a_draft_model_may_be_quantised_by_its_name() -> None:
    with LocalEngine(draft="embedded-draft:int8", **SMALL) as engine:
        assert engine.draft is not None
        assert (engine.draft.model_id, engine.draft.dtype) == ("embedded-draft", "int8")
        assert engine.target.dtype == "float32"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"draft": "target", "draft_layers": 13},
            "13 layers of embedded-target are to draft, and it has 12; choose from",
        ),
        ({"draft": "target", "draft_layers": -1}, "layers is -1; it must be at least 0"),
        ({"draft_layers": 2}, "2 layers are to draft, but the draft model is embedded-draft"),
        ({"draft": "target:int4"}, "'target:int4' is no draft model"),
        ({"draft": "target:int8", "draft_dtype": "float32"}, "leave one of the types out"),
    ],
)
def test_what_cannot_draft_is_refused_before_weights_load(
    values: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("sybil_local.services.load_verifier", loaded)
    with pytest.raises(InvalidSettings, match=sentence):
        LocalEngine(**values)
