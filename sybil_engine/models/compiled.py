"""Compiled passes: the whole of a pass as one function in C++, written by torch.compile.

A compiled pass has fixed sizes, and each takes half a minute to compile, so there are few: `ROW_COUNTS` of a single
session, over spans of cells that double. Other counts are padded up, and sessions do not share a pass. Which span a row
sees is decided by its position alone: passes are cut at `seams`, so that a token's numbers never depend on how far its
neighbours reach. All are compiled when the model starts, and none later: what exact mode has probed is what runs.
Inductor keeps what it compiled in a folder, so that only the first start takes long.

A single session's trees run in the same passes. Prompts, and trees of several sessions, are not compiled.
"""

import logging
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sybil_engine.core.errors import InvalidSettings, UnsupportedModel
from sybil_engine.models.attention import TILE_CELLS
from sybil_engine.models.slotted_cache import CacheView
from sybil_engine.models.tracing import TensorPass

_log = logging.getLogger(__name__)

ROW_COUNTS: tuple[int, ...] = (1, 4, 8, 16)
# Every shape is another version of the same function, and so is every other model of this process.
_MOST_VERSIONS = 4096
_TOLERANCE = 1e-3


def prepare_compiler(folder: str = "") -> Path:
    """Check that passes can be compiled here, and let Inductor keep them in `folder`. Call it before the model loads.

    Args:
        folder: made if it is not there; empty: `sybil-engine/compiled` in the user's cache.

    Raises:
        InvalidSettings: no C++ compiler, or a folder that cannot be written to.
    """
    compiler = os.environ.get("CXX") or "g++"
    if not shutil.which(compiler):
        raise InvalidSettings(
            f"--compile needs a C++ compiler and there is no {compiler}; install one (on Debian and Ubuntu the package "
            "g++), name it in CXX, or leave out --compile"
        )
    path = Path(folder).expanduser() if folder else _user_cache() / "sybil-engine" / "compiled"
    try:
        # What lies there is run: nobody else's business.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        status = path.stat()
    except OSError as error:
        raise InvalidSettings(
            f"compiled passes cannot be kept in {path} ({error.strerror}); name a folder that can be written to with "
            "--compile-cache, or leave out --compile"
        ) from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidSettings(
            f"compiled passes are not run from {path}, because others may write to it; name a folder of your own that "
            "nobody else may write to with --compile-cache, or leave out --compile"
        )
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)
    return path


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else Path.home() / ".cache"


class CompiledPasses:
    """Runs passes of a single session in the shapes that were compiled.

    Attributes:
        row_counts: the rows of a pass, ascending.
        spans: how many cells a pass may see, ascending; the last one is all that a slot has.
    """

    def __init__(self, model: PreTrainedModel, cells: int) -> None:
        """
        Args:
            cells: of a slot.
        """
        self._pass = TensorPass(model)
        self._pass.kind = "fixed"
        self._compiled = torch.compile(self._pass, fullgraph=True, dynamic=False, options={"cpp_wrapper": True})
        self.spans = tuple(_spans(cells))
        self.row_counts = ROW_COUNTS

    @property
    def seams(self) -> tuple[int, ...]:
        """Positions from which on a pass sees another span: no pass may lie on both sides of one."""
        return tuple(span - self.row_counts[-1] for span in self.spans[:-1])

    def span_from(self, position: int) -> int:
        """The span of a pass whose first row is at `position`; it has room for the longest."""
        return self.spans[sum(position >= seam for seam in self.seams)]

    def span_over(self, cells: int) -> int:
        """The shortest span of at least so many cells."""
        return next(span for span in self.spans if span >= cells)

    def compile(self, passes: Sequence[tuple[Tensor, Tensor, Tensor, CacheView]]) -> None:
        """Compile for the shapes of these passes, and make each of them once with the code and once without.

        Raises:
            UnsupportedModel: the model cannot be compiled, or computes something else then.
        """
        import torch._inductor.config

        # Each pass is one file: there is nothing for other processes to do.
        torch._inductor.config.compile_threads = 1
        for number, (token_ids, positions, mask, view) in enumerate(passes, 1):
            rows, span = token_ids.shape[1], mask.shape[3]
            _log.info("compiling a pass of %d rows over %d cells, %d of %d", rows, span, number, len(passes))
            inputs = (token_ids, positions, mask, *view.tensors)
            expected = self._pass(*inputs)
            try:
                with warnings.catch_warnings(), _many_versions():
                    warnings.simplefilter("ignore")
                    logits = self._compiled(*inputs)
            except Exception as error:  # Dynamo, Inductor and the C++ compiler have a tree of errors each
                raise UnsupportedModel(
                    f"a pass of {rows} rows cannot be compiled; remove {os.environ['TORCHINDUCTOR_CACHE_DIR']}, where "
                    f"compiled passes are kept, and start again, or leave out --compile: {_in_short(error)}"
                ) from error
            difference = float((logits - expected).norm() / expected.norm().clamp(min=1e-30))
            if not difference < _TOLERANCE:
                raise UnsupportedModel(
                    f"a pass of {rows} rows computes something else when it is compiled (relative error "
                    f"{difference:.2g}); leave out --compile"
                )

    def logits(self, token_ids: Tensor, positions: Tensor, mask: Tensor, view: CacheView) -> Tensor:
        """Feed tokens of a single session, in a shape that was compiled.

        Args:
            token_ids, positions: [1, rows].
            mask: from `attention.fold_mask`.
            view: a fixed one.

        Returns:
            [1, rows, vocabulary].
        """
        with torch.compiler.set_stance("fail_on_recompile"):
            result: Tensor = self._compiled(token_ids, positions, mask, *view.tensors)
        return result


def _spans(cells: int) -> Iterator[int]:
    span = TILE_CELLS
    while 2 * span <= cells:
        yield span
        span *= 2
    yield cells


def _many_versions() -> Any:
    return torch._dynamo.config.patch(recompile_limit=_MOST_VERSIONS, accumulated_recompile_limit=_MOST_VERSIONS)


def _in_short(error: Exception) -> str:
    """The first two lines: the first one says only which part of torch it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
