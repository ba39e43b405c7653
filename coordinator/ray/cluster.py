"""The Ray that a fleet runs on: the cluster at RAY_ADDRESS, or one on this machine while the fleet runs."""

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from coordinator.progress import Report, until_done
from sybil_engine.core.errors import Unavailable

START_S = 240.0

_ATTEMPTS = 3
# The smallest size that Ray accepts; tokens never pass through it.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024


@asynccontextmanager
async def running_ray(logical_cpus: int, report: Report) -> AsyncIterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or run one on this machine, protected by a new token.

    Args:
        logical_cpus: how many processors to tell Ray that this machine has.

    Raises:
        Unavailable: Ray did not start.
    """
    folder = None if on_a_cluster() else _short_temporary_folder()
    variables = _variables(local=folder is not None)
    os.environ.update(variables)
    starting = asyncio.create_task(asyncio.to_thread(_start, logical_cpus, folder))
    try:
        await until_done(lambda: None if starting.done() else "Ray to start", report, START_S)
        await starting
        yield
    finally:
        # Ray cannot be stopped while it starts.
        await asyncio.wait((starting,))
        import ray

        await asyncio.to_thread(ray.shutdown)
        for name in variables:
            os.environ.pop(name, None)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def on_a_cluster() -> bool:
    """Whether the user named a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _variables(local: bool) -> dict[str, str]:
    """Environment variables for Ray and the processes it starts. Variables that are set already keep their values."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray would give its workers a lower priority than every other program of the machine.
        "RAY_worker_niceness": "0",
        # This process handles signals itself.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        # A service without reserved GPUs sees those that the user shows it.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if local:
        variables |= {
            # Otherwise Ray would write a token below the home folder, which may be read-only, or missing.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # Ray would give a model one thread for each reserved processor; services have a setting for that.
            "OMP_NUM_THREADS": str(os.cpu_count() or 1),
            # Ray would kill services when other programs fill the memory.
            "RAY_memory_monitor_refresh_ms": "0",
        }
    return {name: value for name, value in variables.items() if name not in os.environ}


def _start(logical_cpus: int, folder: str | None) -> None:
    import ray

    # Its warnings are about options that were chosen on purpose.
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if folder:
        options |= {
            "address": "local",
            "num_cpus": logical_cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": folder,
            "_node_ip_address": "127.0.0.1",
        }
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(**options)
            # Otherwise Ray prints its errors between this program's lines.
            ray._private.worker._worker_logs_enabled = False
            return
        # Ray raises bare exceptions when its processes do not start within its own limits, some of them 15 s.
        except Exception as error:
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise Unavailable(
                    f"Ray did not start: {error}; is this machine very busy, or RAY_ADDRESS wrong?"
                ) from error


def _short_temporary_folder() -> str:
    """A folder for Ray's sockets, whose paths may have at most 107 characters."""
    parent = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="sybil-", dir=parent if len(parent) < 30 else "/tmp")  # noqa: S108 - made by mkdtemp
