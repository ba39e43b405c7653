"""Where the engine of a run runs: its cores or devices, its link, and the duration of its passes."""

import os
from dataclasses import dataclass
from typing import Any

from benchmarks.settings import BenchSettings
from sybil_engine.core.errors import InvalidSettings

_EMULATED_MS = ("verify_ms", "draft_ms", "rtt_ms", "row_ms")


@dataclass(frozen=True, slots=True)
class Environment:
    """A choice of --env, as flags and cores.

    Attributes:
        label: the title of every table and plot.
        description: of the environment, for JSON.
        verifier_arguments, drafter_arguments: flags of the services.
        verifier_cores, drafter_cores: processors that they are pinned to; none: all. The coordinator shares the
            drafter's.
        delay_ns: delay that the emulated link adds to each message from or to the verifier.
        peer_device: where the peers run.
    """

    label: str
    description: dict[str, Any]
    verifier_arguments: tuple[str, ...] = ()
    drafter_arguments: tuple[str, ...] = ()
    verifier_cores: tuple[int, ...] = ()
    drafter_cores: tuple[int, ...] = ()
    delay_ns: int = 0
    peer_device: str = "cpu"


def environment_of(settings: BenchSettings) -> Environment:
    """The environment that the settings describe.

    Raises:
        InvalidSettings: this machine does not offer it, or a flag belongs to another one.
    """
    given = settings.model_fields_set.intersection(_EMULATED_MS)
    if given and settings.env != "emulated":
        flags = ", ".join("--" + name.replace("_", "-") for name in sorted(given))
        raise InvalidSettings(f"{flags} is for --env emulated, but --env is {settings.env}; leave one of them out")
    match settings.env:
        case "local" | "native":
            label = "local: one process" if settings.env == "local" else "native"
            return Environment(label, {"name": settings.env, "emulated": False})
        case "two-hosts":
            return _two_hosts()
        case "emulated":
            return _emulated(settings)
        case "gpu":
            return _gpu(settings)


def _two_hosts() -> Environment:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise InvalidSettings(
            f"--env two-hosts needs two processor cores, one for each host, but only core {cores[0]} may be used here; "
            "choose --env native"
        )
    half = (len(cores) + 1) // 2
    verifier_cores, drafter_cores = tuple(cores[:half]), tuple(cores[half:])
    return Environment(
        f"two hosts: verifier on cores {verifier_cores}, drafter on cores {drafter_cores}",
        {"name": "two-hosts", "emulated": False, "verifier_cores": verifier_cores, "drafter_cores": drafter_cores},
        # Services count the machine's cores, not those they are pinned to.
        verifier_arguments=("--threads", str(len(verifier_cores))),
        drafter_arguments=("--threads", str(len(drafter_cores))),
        verifier_cores=verifier_cores,
        drafter_cores=drafter_cores,
    )


def _emulated(settings: BenchSettings) -> Environment:
    verify_ms, draft_ms, rtt_ms, row_ms = times_ms = [float(getattr(settings, name)) for name in _EMULATED_MS]
    passes = ("--emulate-pass-ms", str(verify_ms), "--emulate-row-ms", str(row_ms))
    return Environment(
        f"EMULATED devices: verify pass {verify_ms:g} ms + {row_ms:g} ms a further row, draft pass {draft_ms:g} ms, "
        f"round trip {rtt_ms:g} ms",
        {"name": "emulated", "emulated": True, **dict(zip(_EMULATED_MS, times_ms, strict=True))},
        verifier_arguments=(*passes, "--emulate-delay-ms", str(rtt_ms / 2)),
        drafter_arguments=("--emulate-pass-ms", str(draft_ms)),
        delay_ns=round(rtt_ms / 2 * 1e6),
    )


def _gpu(settings: BenchSettings) -> Environment:
    import torch

    if not torch.cuda.is_available():
        raise InvalidSettings("--env gpu needs a CUDA device, and torch sees none here; choose another --env")
    devices = {"device": torch.cuda.get_device_name(), "draft_device": settings.draft_device}
    return Environment(
        "gpu",
        {"name": "gpu", "emulated": False, **devices},
        verifier_arguments=("--device", "cuda"),
        drafter_arguments=("--device", settings.draft_device),
        peer_device="cuda",
    )
