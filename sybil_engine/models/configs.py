"""A model's config: reading it, and refusing models that cannot run over a paged cache."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from sybil_engine.core.errors import CacheCannotForget, ModelNotFound, UnsupportedModel
from sybil_engine.models.finding import first_line

_WINDOWED_LAYERS = frozenset({"sliding_attention", "chunked_attention", "reference_sliding_attention", "local"})
_ADVICE = "use a model with full attention in every layer, such as Llama, GPT-2 or Qwen2"


def read_config(ref: str, folder: Path) -> PreTrainedConfig:
    """Read the config in a model's folder.

    Raises:
        ModelNotFound, UnsupportedModel: there is none, or none that transformers knows without the model's own code.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFound(f"{ref} has no config.json in {folder}; name a folder in Hugging Face format")
    try:
        document = json.loads(path.read_text())
        if "auto_map" in document and document.get("model_type") not in CONFIG_MAPPING:
            raise UnsupportedModel(f"{ref} brings its own code, which is never run; {_ADVICE}")
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedModel(f"{path} is not a config that transformers knows: {first_line(error)}") from error
    return config


def model_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that transformers would load for causal language modelling, None if it has none."""
    found: Any = AutoModelForCausalLM._model_mapping.get(type(config), None)
    loaded: type[PreTrainedModel] | None = found[0] if isinstance(found, tuple) else found
    return loaded


def refuse_unsupported(ref: str, config: PreTrainedConfig) -> None:
    """Refuse models that cannot run over a paged cache.

    Raises:
        UnsupportedModel, CacheCannotForget: see `sybil_engine.core.errors`.
    """
    kind = config.model_type
    loads = model_class(config)
    if loads is None or config.is_encoder_decoder:
        raise UnsupportedModel(f"{ref} is a {kind!r} model, which is not a causal language model; {_ADVICE}")
    _refuse_stateful(ref, config, loads)
    parameters = inspect.signature(loads.forward).parameters
    missing = sorted({"position_ids", "attention_mask", "past_key_values"} - set(parameters))
    if missing:
        raise UnsupportedModel(
            f"{ref} is a {kind!r} model, whose forward pass takes no {', '.join(missing)}; {_ADVICE}"
        )


def _refuse_stateful(ref: str, config: PreTrainedConfig, loads: type[PreTrainedModel]) -> None:
    """Refuse caches that cannot forget single tokens."""
    odd = {index: kind for index, kind in enumerate(_layer_types(config)) if kind != "full_attention"}
    windowed = {index: kind for index, kind in odd.items() if kind in _WINDOWED_LAYERS}
    if getattr(loads, "_is_stateful", False) or len(windowed) < len(odd):
        running = {index: kind for index, kind in odd.items() if index not in windowed}
        raise CacheCannotForget(
            f"{ref} is a {config.model_type!r} model: {_name(running) or 'every layer'} keeps a running state, not a "
            f"cell for each token, so a rejected token cannot be taken back; {_ADVICE}"
        )
    if windowed:
        raise CacheCannotForget(
            f"{ref} is a {config.model_type!r} model: {_name(windowed)} keeps only a window of the latest cells, and "
            f"tokens taken back would leave gaps where older ones slid out; {_ADVICE}"
        )


def _layer_types(config: PreTrainedConfig) -> list[str]:
    """The kind of each layer, by the names in transformers' caches."""
    text_config = config.get_text_config(decoder=True)
    if text_config.model_type == "gpt_neo":
        return ["full_attention" if kind == "global" else kind for kind in text_config.attention_layers]
    return list(get_layer_types_and_kwargs(text_config)[0])


def _name(layers: Mapping[int, str]) -> str:
    """Name layers briefly: `layers 0, 2, 4 and 9 more (sliding_attention)`; empty if there are none."""
    if not layers:
        return ""
    indices = sorted(layers)
    shown = ", ".join(str(index) for index in indices[:6])
    more = f" and {len(indices) - 6} more" if len(indices) > 6 else ""
    return f"layer{'s' if len(indices) > 1 else ''} {shown}{more} ({', '.join(sorted(set(layers.values())))})"
