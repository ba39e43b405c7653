"""Compiled passes compute what the model computes, each row to the same bits in every shape, and are compiled once."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.models import compiled, hosting
from sybil_engine.models.compiled import prepare_compiler
from sybil_engine.models.emulation import EmulatedRunner
from sybil_engine.models.fused_llama import fuse_llama
from sybil_engine.models.fused_norm import fuse_norms
from sybil_engine.models.loading import LoadedModel
from sybil_engine.models.packed_linear import CompilablePackedLinear, pack_linear_layers
from sybil_engine.models.rows import Rows, TreeRows
from sybil_engine.models.runner import ModelRunner
from sybil_engine.serving.service_settings import ServiceSettings
from tests.unit.models.random_models import VOCABULARY_SIZE, plain_logits, random_model

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "fbgemm" not in torch.backends.quantized.supported_engines, reason="FBGEMM is for x86 processors"
    ),
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX") or "g++") is None,
        reason="passes are compiled with a C++ compiler, g++ or CXX",
    ),
]

ROW_COUNTS = (1, 4)
# Two spans, and so one seam, at 252.
CONTEXT_TOKENS = 400
TEXT = tuple(random.Random(5).randrange(VOCABULARY_SIZE) for _ in range(CONTEXT_TOKENS))
START = 240


def packed_model(kind: str) -> LoadedModel:
    """One layer, as `load` would make it ready to be compiled."""
    loaded = random_model(kind, layers=1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.copy_(parameter.half().float())
    fuse_llama(loaded.model)
    assert pack_linear_layers(loaded.model, compilable=True)
    fuse_norms(loaded.model)
    return loaded


def start_gpt2() -> None:
    """Start a runner of one shape; print how many passes came from the cache, how many did not, and an error."""
    from torch._dynamo.utils import counters

    compiled.ROW_COUNTS = ROW_COUNTS[-1:]
    runner = ModelRunner(packed_model("gpt2"), max_sessions=1, context_tokens=100, compiled=True, numerics="fast")
    difference = runner.forward([Rows(0, 0, TEXT[:3])]) - plain_logits(packed_model("gpt2"), list(TEXT[:3]))
    found = [counters["inductor"][f"fxgraph_cache_{what}"] for what in ("hit", "miss")]
    print(json.dumps([*found, float(difference.abs().max())]))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
        patch.setattr(compiled, "ROW_COUNTS", ROW_COUNTS)
        yield prepare_compiler(str(tmp_path_factory.mktemp("compiled")))


@pytest.fixture(scope="module")
def runner(cache: Path) -> ModelRunner:
    """In exact mode."""
    return ModelRunner(packed_model("llama"), max_sessions=3, context_tokens=CONTEXT_TOKENS, compiled=True)


def prefill(runner: ModelRunner, slot: int, end: int) -> None:
    for start in range(0, end, runner.prefill_tokens):
        runner.prefill(Rows(slot, start, TEXT[start : min(end, start + runner.prefill_tokens)]))


def test_the_first_start_compiles_and_the_second_takes_what_is_there(cache: Path) -> None:
    program = f"from {__name__} import start_gpt2; start_gpt2()"
    for expected in ([0, 1], [1, 0]):
        started = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert started.returncode == 0, started.stderr
        *found, difference = json.loads(started.stdout.splitlines()[-1])
        assert found == expected
        assert difference < 1e-4
    assert any(cache.iterdir())


def test_compiled_passes_compute_what_the_model_computes(runner: ModelRunner) -> None:
    expected = plain_logits(packed_model("llama"), list(TEXT))
    prefill(runner, 1, START)
    fed, chance = START, random.Random(3)
    while fed < CONTEXT_TOKENS:
        rows = Rows(1, fed, TEXT[fed : fed + chance.randint(1, 9)])
        logits = runner.forward([rows])
        torch.testing.assert_close(logits, expected[fed : fed + len(logits)], atol=1e-4, rtol=1e-4)
        fed += len(logits)


def test_a_row_has_the_same_bits_in_every_shape_and_across_a_seam(runner: ModelRunner) -> None:
    plain, speculating = 0, 2
    for slot in (plain, speculating):
        prefill(runner, slot, START)
    one_by_one = torch.cat([runner.forward([Rows(plain, at, (TEXT[at],))]) for at in range(START, CONTEXT_TOKENS)])
    at, chance = START, random.Random(1)
    while at < CONTEXT_TOKENS:
        right = TEXT[at : at + chance.randint(1, 6)]
        # Rejected tokens, whose cells are taken back.
        wrong = tuple(chance.randrange(VOCABULARY_SIZE) for _ in range(chance.randint(0, 3)))
        window = (right + wrong)[: CONTEXT_TOKENS - at]
        logits = runner.forward([Rows(speculating, at, window), Rows(1, 0, TEXT[:3])])[: len(right)]
        assert torch.equal(logits, one_by_one[at - START :][: len(right)])
        at += len(right)
    for side in (runner.cache.keys, runner.cache.values):
        assert torch.equal(side[:, plain, :, :CONTEXT_TOKENS], side[:, speculating, :, :CONTEXT_TOKENS])


def test_what_the_probe_keeps_are_compiled_shapes(runner: ModelRunner) -> None:
    assert runner.row_class == ROW_COUNTS
    assert runner.max_rows == ROW_COUNTS[-1]
    assert runner.fit(1, 2) == (1, 4)
    assert runner.fit(2, 1) is None
    # Cut at the seam.
    assert runner.padded_rows([Rows(0, 250, (1,) * 4)]) == 2 * 4
    with pytest.raises(RuntimeError, match="recompile"):
        runner.run([Rows(0, 0, (1, 2))], (1, 2))


def test_fill_leaves_the_cells_that_forward_leaves(runner: ModelRunner) -> None:
    runner.forward([Rows(0, 0, TEXT[:9])])
    runner.fill([Rows(1, 0, TEXT[:9])])
    assert torch.equal(runner.cache.keys[:, 0, :, :9], runner.cache.keys[:, 1, :, :9])


@pytest.mark.parametrize("rows", [1, 3])
def test_a_tree_is_padded_without_writing_another_cell(runner: ModelRunner, rows: int) -> None:
    prefill(runner, 0, START)
    runner.cache.keys[:, 0, :, START:] = 0
    before = runner.cache.keys.clone()
    # Siblings: each sees what is committed, and itself.
    cells = tuple(runner.tree_cells - 1 - 2 * row for row in range(rows))
    visible = np.zeros((rows, runner.tree_cells), dtype=np.bool_)
    visible[:, :START] = True
    visible[range(rows), cells] = True
    tree = TreeRows(0, TEXT[:rows], (START,) * rows, cells, visible)
    logits = runner.forward_tree(runner.prepare_tree([tree]))
    changed = (runner.cache.keys != before).any(dim=-1).any(dim=2).any(dim=0)
    assert {(0, cell) for cell in cells} == {(slot, cell) for slot, cell in changed.nonzero().tolist()}
    for row in range(rows):
        alone = runner.forward([Rows(0, START, (TEXT[row],))])[0]
        torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=1e-4)


def test_trees_of_several_sessions_are_fed_without_being_compiled(runner: ModelRunner) -> None:
    visible = np.tri(2, runner.tree_cells, dtype=np.bool_)
    trees = [TreeRows(slot, TEXT[:2], (0, 1), (0, 1), visible) for slot in (0, 2)]
    logits = runner.forward_tree(runner.prepare_tree(trees))
    alone = runner.forward([Rows(1, 0, TEXT[:2])])
    torch.testing.assert_close(logits, alone.repeat(2, 1), atol=1e-4, rtol=1e-4)


def test_an_emulated_device_runs_the_same_compiled_passes(runner: ModelRunner) -> None:
    emulated = EmulatedRunner(
        packed_model("llama"), pass_ms=0.1, row_ms=0.0, max_sessions=3, context_tokens=CONTEXT_TOKENS, compiled=True
    )
    rows = Rows(0, 0, TEXT[:3])
    assert torch.equal(emulated.forward([rows]), runner.forward([rows]))


@pytest.mark.parametrize("with_bias", [False, True])
def test_compilable_layers_give_each_row_the_same_bits_and_their_weights_back(with_bias: bool) -> None:
    weight, bias = torch.randn(33, 20).half().float(), torch.randn(33).half().float() if with_bias else None
    layer = CompilablePackedLinear(weight, bias)
    rows = torch.randn(1, 16, 20)
    together = layer(rows)
    assert torch.allclose(together, torch.nn.functional.linear(rows, weight, bias), atol=1e-4)
    for count in range(1, 16):
        assert torch.equal(layer(rows[:, :count]), together[:, :count])
    weight_again, bias_again = layer.unpacked()
    assert torch.equal(weight_again, weight)
    assert (bias_again is None) == (bias is None)
    assert bias is None or bias_again is None or torch.equal(bias_again, bias)


def test_without_a_compiler_the_model_is_not_even_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(hosting, "load", lambda *_, **__: pytest.fail("it was loaded"))
    settings = ServiceSettings(model="embedded-target", compile=True, compile_cache=str(tmp_path))
    with pytest.raises(InvalidSettings, match="there is no no-such-compiler; install one"):
        hosting.host_model(settings)


def test_a_cache_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidSettings, match=r"cannot be kept in .*file/below.*--compile-cache"):
        prepare_compiler(str(tmp_path / "file" / "below"))


def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(InvalidSettings, match="others may write to it; name a folder of your own"):
        prepare_compiler(str(tmp_path))


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"device": "cuda"}])
def test_other_dtypes_and_devices_are_refused(other: dict[str, str]) -> None:
    with pytest.raises(InvalidSettings, match="--compile is for float32 on a processor"):
        hosting.host_model(ServiceSettings(model="embedded-target", compile=True, **other))  # type: ignore[arg-type]
