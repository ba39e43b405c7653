"""A model's description, from its files alone."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from sybil_engine.core.errors import ModelError, UnsupportedModel
from sybil_engine.core.types import ModelDescription
from sybil_engine.models.configs import model_class
from sybil_engine.models.first_layers import empty_model
from sybil_engine.models.tokenizer import TokenizerIdentity, identify


def description_of(ref: str, folder: Path, config: PreTrainedConfig, dtype: str, device: str) -> ModelDescription:
    """Describe the model in a folder. Its config is already loaded.

    Raises:
        NoTokenizer, UnsupportedModel, ModelError: its tokenizer, its context or a JSON file is missing or broken.
    """
    identity = identify(folder)
    loads = model_class(config)
    assert loads is not None
    text_config = config.get_text_config(decoder=True)
    vocabulary_size = int(text_config.vocab_size)
    sources = [_read_json(folder / "generation_config.json"), config.to_dict()]
    names = _read_json(folder / "tokenizer_config.json")
    return ModelDescription(
        model_id=ref,
        architecture=loads.__name__,
        parameters=sum(parameter.numel() for parameter in empty_model(config).parameters()),
        vocabulary_size=vocabulary_size,
        tokenizer_fingerprint=identity.fingerprint,
        tokenizer_parts=identity.parts,
        end_token_ids=_special_ids("eos_token", sources, names, identity, vocabulary_size),
        begin_token_id=next(iter(_special_ids("bos_token", sources, names, identity, vocabulary_size)), None),
        context_tokens=_context_tokens(ref, text_config),
        dtype=dtype,
        device=device,
    )


def _context_tokens(ref: str, config: PreTrainedConfig) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        tokens = getattr(config, name, None)
        if isinstance(tokens, int) and tokens > 0:
            return tokens
    raise UnsupportedModel(f"the config of {ref} does not say how long its context is (max_position_embeddings)")


def _special_ids(
    name: str,
    sources: Iterable[dict[str, Any]],
    tokenizer_config: dict[str, Any],
    identity: TokenizerIdentity,
    vocabulary_size: int,
) -> tuple[int, ...]:
    """Collect the ids of a special token: generation config, config, then tokenizer; each once."""
    ids: list[int] = []
    for source in sources:
        value = source.get(f"{name}_id")
        ids += [value] if isinstance(value, int) else list(value or ())
    token = tokenizer_config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if isinstance(text, str) and text in identity.token_ids:
        ids.append(identity.token_ids[text])
    return tuple(dict.fromkeys(token_id for token_id in ids if 0 <= token_id < vocabulary_size))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not JSON; fetch the model again: {error}") from error
    return document if isinstance(document, dict) else {}
