"""Run a verifier: `python -m verifier_service --help`."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence

import sybil_engine.serving.polling  # noqa: F401  before gRPC
from sybil_engine.serving.process import run_service
from sybil_engine.settings import parse
from verifier_service.settings import VerifierSettings

PROGRAM = "sybil serve verifier"


async def serve(argv: Sequence[str], environ: Mapping[str, str], bound: Callable[[int], None]) -> None:
    """Serve a target model until cancelled, then drain.

    Args:
        bound: told the port as soon as it listens.

    Raises:
        InvalidSettings, Unavailable, ModelError: it cannot serve.
    """
    settings = parse(VerifierSettings, argv, environ, PROGRAM)
    # Imported after the settings are read: a wrong flag is reported at once, not after torch is imported.
    import sybil_engine.models.openmp  # noqa: F401  before torch

    # isort: split
    from sybil_engine.models.loading import describe, tokenizer_json
    from sybil_engine.rpc.v1 import verifier_service_pb2, verifier_service_pb2_grpc
    from sybil_engine.serving.model_service import serve_model
    from verifier_service.loading import load_verifier
    from verifier_service.metrics import verifier_metrics
    from verifier_service.servicer import VerifierServicer

    await serve_model(
        settings,
        verifier_service_pb2.DESCRIPTOR,
        describe(settings.model, dtype=settings.dtype, device=settings.device),
        lambda: load_verifier(settings),
        lambda hosted, server: verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server(
            VerifierServicer(hosted, tokenizer_json(settings.model)), server
        ),
        verifier_metrics,
        bound,
    )


def main(argv: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    return run_service(serve(argv, os.environ, lambda port: None), PROGRAM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
