"""The comparison of pass times runs every variant at every number of rows, and leaves nothing running."""

from pathlib import Path

import torch

from benchmarks.passes import times_table, variants_of
from tests.unit.models.random_models import save_folder
from verifier_service.settings import VerifierSettings


def test_each_variant_is_timed_alone_and_beside_a_busy_core(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        settings = VerifierSettings(model=str(save_folder(tmp_path)))
        variants = list(variants_of(settings, ["float32", "bfloat16"], [1, 2]))
        table = times_table("tiny", variants, (1, 2))
    finally:
        torch.set_num_threads(threads)
    names, *columns = (list(column.cells) for column in table.columns)
    assert names == ["float32, 1 thread", "float32, 2 threads", "bfloat16, 1 thread", "bfloat16, 2 threads"]
    assert len(columns) == 2
    for column in columns:
        for cell in column:
            alone, beside = (float(part) for part in str(cell).split(" / "))
            assert alone > 0
            assert beside > 0
