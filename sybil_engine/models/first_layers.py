"""A part of a model: its first layers, with its own embedding, final norm and head."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sybil_engine.core.errors import InvalidSettings, UnsupportedModel


def first_layers(ref: str, config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The config of a model's first layers; with 0 layers, the whole model's.

    Raises:
        InvalidSettings: the model has fewer.
        UnsupportedModel: the config does not say how many layers there are.
    """
    if not layers:
        return config
    part = copy.deepcopy(config)
    text_config = part.get_text_config(decoder=True)
    whole = getattr(text_config, "num_hidden_layers", None)
    if not isinstance(whole, int):
        raise UnsupportedModel(
            f"the config of {ref} does not say how many layers it has (num_hidden_layers); draft with the whole of it, "
            "or with another model"
        )
    if not 1 <= layers <= whole:
        raise InvalidSettings(f"{layers} layers of {ref} are to draft, and it has {whole}; choose from 1 to {whole}")
    text_config.num_hidden_layers = layers
    return part


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model without numbers, for its names and shapes."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    return model


def refuse_indivisible(ref: str, config: PreTrainedConfig, part: PreTrainedConfig) -> None:
    """Refuse a model whose part is not made of the same weights, only fewer.

    Raises:
        UnsupportedModel: its layers cannot be told apart.
    """
    whole_shapes, part_shapes = (
        {name: weight.shape for name, weight in empty_model(each).named_parameters()} for each in (config, part)
    )
    whole_layers, part_layers = (each.get_text_config(decoder=True).num_hidden_layers for each in (config, part))
    shrinks = len(part_shapes) < len(whole_shapes) or part_layers == whole_layers
    if not (shrinks and part_shapes.items() <= whole_shapes.items()):
        raise UnsupportedModel(
            f"{ref} is a {config.model_type!r} model, whose first layers cannot be told from the others; draft with "
            "the whole of it, or with another model"
        )


@contextmanager
def without_report() -> Iterator[None]:
    """Keep transformers from warning about weights that a part has no place for."""
    # Not by its level, for which transformers would give other warnings.
    logger = logging.getLogger("transformers.modeling_utils")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False
