"""The comparison of pass times runs every variant at every number of rows, and leaves nothing running."""

from pathlib import Path

import pytest
import torch

from benchmarks import roofline
from benchmarks.roofline import roofline_table, variants_of
from tests.unit.models.random_models import save_folder
from verifier_service.settings import VerifierSettings


def test_each_variant_is_timed_alone_and_beside_a_busy_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_REPEATS": 3, "_WARM_UPS": 1, "_PRODUCT_SIDE": 64}.items():
        monkeypatch.setattr(roofline, name, value)
    threads = torch.get_num_threads()
    try:
        settings = VerifierSettings(model=str(save_folder(tmp_path)))
        variants = list(variants_of(settings, ["float32", "bfloat16"], [1, 2]))
        table = roofline_table("tiny", variants, (1, 2))
    finally:
        torch.set_num_threads(threads)
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    expected = ["float32, 1 thread", "float32, 2 threads", "bfloat16, 1 thread", "bfloat16, 2 threads"]
    assert columns["weights, threads"] == [name for name in expected for _ in (1, 2)]
    assert columns["rows"] == ["1", "2"] * 4
    assert all(float(cell) > 0 for name in ("pass ms", "beside a busy core, ms") for cell in columns[name])
