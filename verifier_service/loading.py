"""From a verifier's settings to its engine."""

from sybil_engine.core.memory import amount_bytes, free_bytes
from sybil_engine.models.hosting import host_model
from verifier_service.engine import BRANCH_CELLS, Verifier
from verifier_service.settings import VerifierSettings


def load_verifier(settings: VerifierSettings) -> Verifier:
    """Load the target model. Call it on the thread that will run the passes.

    Raises:
        ModelError: see `host_model`.
    """
    runner, description = host_model(
        settings,
        BRANCH_CELLS,
        wide_prefill=True,
        most_rows=settings.max_window_tokens + 1,
        alone_threads=settings.alone_threads,
    )
    return Verifier(
        runner,
        description,
        settings.max_window_tokens,
        settings.prefill_share,
        suffix_memory_bytes=amount_bytes(settings.suffix_memory, free_bytes()),
    )
