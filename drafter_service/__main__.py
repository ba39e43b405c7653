"""Run a drafter: `python -m drafter_service --help`."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence

import sybil_engine.serving.polling  # noqa: F401  before gRPC
from drafter_service.settings import DrafterSettings
from sybil_engine.serving.process import run_service
from sybil_engine.settings import parse

PROGRAM = "sybil serve drafter"


async def serve(argv: Sequence[str], environ: Mapping[str, str], bound: Callable[[int], None]) -> None:
    """Serve a draft model until cancelled, then drain.

    Args:
        bound: told the port as soon as it listens.

    Raises:
        InvalidSettings, Unavailable, ModelError: it cannot serve.
    """
    settings = parse(DrafterSettings, argv, environ, PROGRAM)
    choice = settings.choice
    # Imported after the settings are read: a wrong flag is reported at once, not after torch is imported.
    import sybil_engine.models.openmp  # noqa: F401  before torch

    # isort: split
    from drafter_service.engine import BRANCH_CELLS, Drafter
    from drafter_service.metrics import drafter_metrics
    from drafter_service.servicer import DrafterServicer
    from sybil_engine.models.hosting import host_model
    from sybil_engine.models.loading import describe
    from sybil_engine.rpc.v1 import drafter_service_pb2, drafter_service_pb2_grpc
    from sybil_engine.serving.model_service import serve_model

    await serve_model(
        settings,
        drafter_service_pb2.DESCRIPTOR,
        describe(choice.ref, dtype=choice.dtype, device=settings.device, layers=choice.layers),
        lambda: Drafter(*host_model(settings, BRANCH_CELLS), settings.prefill_share),
        lambda hosted, server: drafter_service_pb2_grpc.add_DrafterServiceServicer_to_server(
            DrafterServicer(hosted), server
        ),
        drafter_metrics,
        bound,
    )


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    return run_service(serve(argv, os.environ, lambda port: None), PROGRAM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
