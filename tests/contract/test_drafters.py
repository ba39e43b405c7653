"""Sets of drafters on a real engine: the same tokens whoever guesses, and whatever goes wrong with it."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import sybil_engine.proposers.registry as registry_module
from sybil_engine.core.errors import ContextExceeded, InvalidRequest
from sybil_engine.core.session import SessionOpen
from sybil_engine.core.types import Speculation, TokenOrigin
from sybil_engine.proposers.asked import Failure
from sybil_engine.proposers.lookup import Lookup
from sybil_engine.proposers.proposer import Continuation, Proposer, ServiceKind
from sybil_local import Completion, LocalEngine

DOCS = Path(__file__).parents[2] / "docs" / "proposers.md"
PROMPT = "def test_add():\n    assert add(1, 2) == 3\n\n\ndef test_sub():\n    assert sub(3) == 1\n\n\ndef test_m():\n"
SETS = (("model",), ("lookup",), ("suffix",), ("model", "lookup"), ("model", "lookup", "suffix", "forced"))
WAYS = [way.value for way in Speculation if way is not Speculation.OFF]


class Brought(Proposer):
    """What another package brings."""

    def __init__(self, opening: SessionOpen) -> None:
        pass


class Garbage(Brought):
    """Returns no continuations, but anything."""

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        return [Continuation(-7, 3.0), "what"]  # type: ignore[list-item]


class Liar(Brought):
    """Is sure of the wrong token."""

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        return [Continuation(11 + len(path), 1.0)]


class Raising(Brought):
    """Breaks."""

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        raise RuntimeError("broken")


class Hanging(Brought):
    """Never answers."""

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        time.sleep(600)
        return []


class Elsewhere(Brought):
    """May not run in the verifier's process; repeats the text."""

    places = frozenset({ServiceKind.DRAFTER})

    def __init__(self, opening: SessionOpen) -> None:
        self._lookup = Lookup()

    def follow(self, token_ids: Sequence[int]) -> None:
        self._lookup.follow(token_ids)

    def continuations(self, path: tuple[int, ...]) -> Sequence[Continuation]:
        return self._lookup.continuations(path)


HOSTILE = {"garbage": Garbage, "liar": Liar, "raising": Raising, "hanging": Hanging}


REGISTRIES: list[registry_module.Registry] = []
"""Those of the engines that were made."""


class NotedRegistry(registry_module.Registry):
    """A registry that tests can look into."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        REGISTRIES.append(self)


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    """An engine that also offers hostile proposers, as another package would bring them."""
    group = registry_module.ENTRY_POINTS
    entries = [EntryPoint(name, f"{__name__}:{kind.__name__}", group) for name, kind in HOSTILE.items()]
    entries.append(EntryPoint("elsewhere", f"{__name__}:Elsewhere", group))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry_module, "entry_points", lambda group: entries)
        registry_module._brought.cache_clear()
        patched.setattr("verifier_service.engine.Registry", NotedRegistry)
        with LocalEngine(max_sessions=3, context_tokens=512, suffix_memory="1M") as it:
            yield it
    registry_module._brought.cache_clear()


@pytest.fixture(scope="module")
def plain(engine: LocalEngine) -> dict[float, Completion]:
    return {
        temperature: engine.generate(PROMPT, max_tokens=48, temperature=temperature, seed=7, speculation="off")
        for temperature in (0.0, 0.8)
    }


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("drafters", SETS, ids="+".join)
@pytest.mark.parametrize("way", WAYS)
def test_every_set_of_drafters_gives_the_tokens_of_plain_decoding(
    engine: LocalEngine, plain: dict[float, Completion], way: str, drafters: tuple[str, ...], temperature: float
) -> None:
    completion = engine.generate(
        PROMPT, max_tokens=48, temperature=temperature, seed=7, speculation=way, drafters=drafters
    )
    assert completion.token_ids == plain[temperature].token_ids
    names = {token.drafter for token in completion.tokens if token.origin is TokenOrigin.DRAFTED}
    assert names <= set(drafters)
    assert all(not token.drafter for token in completion.tokens if token.origin is TokenOrigin.TARGET)
    usage = completion.ending.usage
    assert sum(each.accepted for each in usage.drafters) == usage.accepted_tokens
    assert sum(each.tested for each in usage.drafters) == usage.tested_tokens <= usage.drafted_tokens


def test_proposers_alone_save_passes(engine: LocalEngine, plain: dict[float, Completion]) -> None:
    completion = engine.generate(PROMPT, max_tokens=48, drafters=["lookup"])
    assert completion.token_ids == plain[0.0].token_ids
    assert completion.ending.usage.verify_passes < 40
    assert "lookup" in {token.drafter for token in completion.tokens}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_proposer_that_may_not_run_in_the_verifier_runs_in_the_drafter(
    engine: LocalEngine, plain: dict[float, Completion], temperature: float
) -> None:
    assert "elsewhere" not in engine.target.proposers
    assert engine.draft
    assert "elsewhere" in engine.draft.proposers
    completion = engine.generate(
        PROMPT,
        max_tokens=48,
        temperature=temperature,
        seed=7,
        speculation="hedged",
        drafters=["model", "elsewhere"],
    )
    assert completion.token_ids == plain[temperature].token_ids
    if not temperature:
        assert "elsewhere" in {token.drafter for token in completion.tokens}


def test_off_means_that_nobody_drafts(engine: LocalEngine) -> None:
    completion = engine.generate(PROMPT, max_tokens=16, speculation="off", drafters=["model", "lookup"])
    assert completion.ending.usage.verify_passes == 16
    assert not completion.ending.usage.drafters


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_right_prediction_makes_passes_few_and_a_wrong_one_changes_nothing(
    engine: LocalEngine, plain: dict[float, Completion], temperature: float
) -> None:
    expected = plain[temperature]
    for prediction, most_passes in ((expected.token_ids, 8), ((5, 6, 7), 48), (expected.token_ids[::-1], 48)):
        completion = engine.generate(
            PROMPT, max_tokens=48, temperature=temperature, seed=7, drafters=["lookup"], prediction=prediction
        )
        assert completion.token_ids == expected.token_ids
        assert completion.ending.usage.verify_passes <= most_passes
    as_text = engine.generate(PROMPT, max_tokens=48, temperature=temperature, seed=7, prediction=expected.text)
    assert as_text.token_ids == expected.token_ids


def test_what_a_user_was_given_before_is_remembered_and_another_users_is_not(engine: LocalEngine) -> None:
    text = "class Polygon(Shape):\n    def __init__(self, corners"
    first = engine.generate(text, max_tokens=64, temperature=0.8, seed=11, drafters=["suffix"])
    again = engine.generate(text, max_tokens=64, temperature=0.8, seed=11, drafters=["suffix"])
    assert again.token_ids == first.token_ids
    assert again.ending.usage.verify_passes < first.ending.usage.verify_passes / 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_proposer_costs_speed_only_and_is_counted(
    engine: LocalEngine, plain: dict[float, Completion], name: str, temperature: float
) -> None:
    completion = engine.generate(
        PROMPT, max_tokens=48, temperature=temperature, seed=7, drafters=["model", "lookup", name]
    )
    assert completion.token_ids == plain[temperature].token_ids
    kinds = {"garbage": Failure.GARBAGE, "raising": Failure.RAISED, "hanging": Failure.LATE}
    if name in kinds:
        assert REGISTRIES[-1].failures[name, kinds[name]] > 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"drafters": ["lookups"]}, "there is no drafter 'lookups'; did you mean 'lookup'"),
        ({"drafters": ["model"] * 17}, "drafters holds 17 names; at most 16"),
        ({"drafters": "model"}, "drafters is 'model'; it must be a list"),
        ({"prediction": [1, 2**20]}, r"prediction\[1\] is 1048576; token ids must be below"),
        ({"prediction": 7}, "prediction is 7; it must be a list"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(engine: LocalEngine, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        engine.generate(PROMPT, max_tokens=4, **options)


def test_a_prediction_longer_than_the_context_is_refused(engine: LocalEngine) -> None:
    for prediction in ([5] * 513, "x " * 40_000):
        with pytest.raises(ContextExceeded, match=r"prediction .* the prediction"):
            engine.generate(PROMPT, max_tokens=4, prediction=prediction)


def test_the_walk_through_makes_a_proposer_that_works(tmp_path: Path) -> None:
    """A package is made, installed and used as docs/proposers.md says."""
    text = DOCS.read_text()
    files = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
    assert sum(len(each.splitlines()) for each in files.values()) < 40
    package = tmp_path / "package"
    package.mkdir()
    for name, content in files.items():
        (package / name).write_text(content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path / "installed"), str(package)], check=True, timeout=120)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "from sybil_local import LocalEngine\n"
        "with LocalEngine(traced=False) as engine:\n"
        f"    plain = engine.generate({PROMPT!r}, max_tokens=48, speculation='off')\n"
        f"    pairs = engine.generate({PROMPT!r}, max_tokens=48, drafters=['pairs'])\n"
        "assert pairs.token_ids == plain.token_ids\n"
        "assert pairs.ending.usage.verify_passes < plain.ending.usage.verify_passes\n"
        "print(sorted({token.drafter for token in pairs.tokens}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=True, timeout=120, capture_output=True, text=True)
    assert ran.stdout.strip() == "['', 'pairs']"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_lossy_judge_is_used_where_both_sides_ask_for_it_and_says_so(temperature: float) -> None:
    with LocalEngine(traced=False, context_tokens=256, allow_lossy=["top-k", "threshold"]) as engine:
        kwargs: dict[str, Any] = {"max_tokens": 32, "temperature": temperature, "seed": 5, "speculation": "lockstep"}
        # Lookup would find what the text repeats, whoever judges.
        kwargs["drafters"] = ["model"]
        exact = engine.generate(PROMPT, **kwargs)
        lossy = engine.generate(PROMPT, acceptance_rule="top-k", acceptance_parameter=50, **kwargs)
        strict = engine.generate(PROMPT, acceptance_rule="threshold", acceptance_parameter=1.0, **kwargs)
        assert not exact.ending.lossy
        assert lossy.ending.lossy
        assert (lossy.ending.acceptance_rule.value, lossy.ending.acceptance_parameter) == ("top-k", 50)
        # Nearly everything is accepted, and the text is another one.
        assert lossy.ending.usage.verify_passes < exact.ending.usage.verify_passes
        assert lossy.ending.usage.accepted_tokens > 0.9 * lossy.ending.usage.tested_tokens
        # No token is as likely as that: the target's own draws are left.
        assert strict.token_ids == exact.token_ids
        with pytest.raises(InvalidRequest, match=r"typical is lossy.*does not allow it"):
            engine.generate(PROMPT, acceptance_rule="typical", **kwargs)
        with pytest.raises(InvalidRequest, match="acceptance_rule has the value 'topk'"):
            engine.generate(PROMPT, acceptance_rule="topk", **kwargs)
