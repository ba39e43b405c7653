"""From a service's settings to a model that is ready for passes."""

from dataclasses import replace

import torch

from sybil_engine.models.loading import load
from sybil_engine.models.runner import ModelRunner
from sybil_engine.serving.service_settings import ServiceSettings
from sybil_engine.types import ModelDescription


def host_model(settings: ServiceSettings) -> tuple[ModelRunner, ModelDescription]:
    """Load a model and, in exact mode, probe it. Call it on the thread that will run the passes.

    Raises:
        ModelError: see `load` and `ModelRunner`.
    """
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    loaded = load(settings.model, settings.dtype, settings.device)
    runner = ModelRunner(
        loaded,
        max_sessions=settings.max_sessions,
        context_tokens=settings.context_tokens or None,
        numerics=settings.numerics,
    )
    description = replace(
        loaded.description,
        context_tokens=runner.context_tokens,
        max_sessions=settings.max_sessions,
        numerics=settings.numerics,
        row_class=runner.row_class,
    )
    return runner, description
