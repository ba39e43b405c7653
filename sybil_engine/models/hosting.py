"""From a service's settings to a model that is ready for passes."""

import logging
import os
import platform
from dataclasses import replace
from pathlib import Path

import torch

from sybil_engine.core.memory import amount_bytes, free_bytes
from sybil_engine.core.types import ModelDescription
from sybil_engine.models.emulation import EmulatedRunner
from sybil_engine.models.loading import device_kind, load
from sybil_engine.models.model_runner import ModelRunner, RunnerOptions
from sybil_engine.models.numerics.probe import TOTALS
from sybil_engine.models.pages import PagePool
from sybil_engine.models.runner import Runner
from sybil_engine.serving.service_settings import ServiceSettings

_log = logging.getLogger(__name__)

_MOST_PREFILL_LANES = 4
_TYPICAL_TOKENS = 500
# Containers of one machine read the same here.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def host_model(
    settings: ServiceSettings,
    branch_cells: int = 0,
    *,
    wide_prefill: bool = False,
    most_rows: int = TOTALS[-1],
    alone_threads: int = 0,
) -> tuple[Runner, ModelDescription]:
    """Load a model and, in exact mode, probe it. Call it on the thread that will run the passes.

    Args:
        branch_cells, most_rows, alone_threads: see `RunnerOptions`.
        wide_prefill: on a processor with enough cores for it, feed several chunks of a prompt at the same time.

    Raises:
        InvalidSettings: no such dtype or device, or a cache that does not fit into memory.
        ModelError: see `load` and `ModelRunner`.
    """
    # A thread that waits for a busy core stalls its pass, so one core stays free for the other services.
    cores = len(os.sched_getaffinity(0))
    on_processor = device_kind(settings.device) == "cpu"
    torch.set_num_threads(settings.threads or max(1, cores - 1))
    choice = settings.choice
    loaded = load(choice.ref, choice.dtype, settings.device, layers=choice.layers, packed=settings.packed)
    options = RunnerOptions(
        max_sessions=settings.max_sessions,
        cache_bytes=amount_bytes(settings.cache_memory, _free_bytes(settings.device)),
        context_tokens=settings.context_tokens or None,
        numerics=settings.numerics,
        keep_total=settings.row_class or None,
        branch_cells=branch_cells,
        traced=settings.traced,
        most_rows=most_rows,
        prefill_lanes=_prefill_lanes(cores) if wide_prefill and on_processor else 1,
        alone_threads=alone_threads if on_processor else 0,
    )
    runner: Runner = (
        EmulatedRunner(loaded, options, pass_ms=settings.emulate_pass_ms, row_ms=settings.emulate_row_ms)
        if settings.emulate_pass_ms
        else ModelRunner(loaded, options)
    )
    _log.info("%s", _describe_cache(runner.pool))
    description = replace(
        loaded.description,
        context_tokens=runner.context_tokens,
        max_sessions=settings.max_sessions,
        numerics=settings.numerics,
        row_class=runner.row_class,
        processors=() if settings.emulate_pass_ms else _processors(settings.device),
        threads=torch.get_num_threads() if on_processor else 1,
        kernels=_kernels(settings),
    )
    return runner, description


def _describe_cache(pool: PagePool) -> str:
    cells = pool.pages * pool.page_cells
    return f"the KV cache holds {cells} tokens, about {max(1, cells // _TYPICAL_TOKENS)} sessions of {_TYPICAL_TOKENS}"


def _free_bytes(device: str) -> int:
    """Memory that a model on this device may still take."""
    return torch.cuda.mem_get_info(device)[0] if device_kind(device) == "cuda" else free_bytes()


def _processors(device: str) -> tuple[str, ...]:
    """The cores or the GPU that passes may run on; all services of a machine, in containers or not, name them alike."""
    kind = device_kind(device)
    if kind == "cpu":
        machine = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else platform.node()
        return tuple(f"{machine}/{core}" for core in sorted(os.sched_getaffinity(0)))
    return (str(torch.cuda.get_device_properties(device).uuid),) if kind == "cuda" else ()


def _kernels(settings: ServiceSettings) -> str:
    """See `ModelDescription.kernels`."""
    kind = device_kind(settings.device)
    if kind != "cpu":
        return kind
    return "packed" if settings.packed else "stock"


def _prefill_lanes(cores: int) -> int:
    return min(_MOST_PREFILL_LANES, max(1, cores // torch.get_num_threads()))
