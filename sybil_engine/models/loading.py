"""Loading models: from a local folder, the Hugging Face hub, or this package."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from sybil_engine.core.errors import InvalidSettings, ModelError
from sybil_engine.core.types import ModelDescription
from sybil_engine.models import attention
from sybil_engine.models.configs import model_class, read_config, refuse_unsupported
from sybil_engine.models.description import description_of
from sybil_engine.models.finding import find_config, find_tokenizer, find_weights, first_line
from sybil_engine.models.first_layers import first_layers, refuse_indivisible, without_report
from sybil_engine.models.kernels.fused_llama import fuse_llama
from sybil_engine.models.kernels.fused_norm import fuse_norms
from sybil_engine.models.kernels.int8 import quantize_linear_layers
from sybil_engine.models.kernels.packed import pack_linear_layers
from sybil_engine.models.tokenizer import TOKENIZER_FILE, identify

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Weights in 8 bits, everything else in float32.
INT8 = "int8"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready for passes, and its description.

    Attributes:
        attention: the transformers attention implementation in use: our own if the architecture takes one.
    """

    model: PreTrainedModel
    description: ModelDescription
    attention: str = attention.IMPLEMENTATION


def describe(ref: str, *, dtype: str = "float32", device: str = "cpu", layers: int = 0) -> ModelDescription:
    """Describe a model without loading its weights.

    Args:
        ref: a local folder, a hub id, `embedded-target` or `embedded-draft`.
        layers: describe the part that its first layers make, see `first_layers`; 0: the whole.

    Raises:
        InvalidSettings: no such dtype or device, or fewer layers.
        ModelNotFound, NoSafetensors, NoTokenizer, UnsupportedModel, CacheCannotForget: see `sybil_engine.core.errors`.
    """
    _check_settings(dtype, device)
    folder = find_config(ref)
    config = read_config(ref, folder)
    refuse_unsupported(ref, config)
    if not layers:
        return description_of(ref, folder, config, dtype, device)
    part = first_layers(ref, config, layers)
    refuse_indivisible(ref, config, part)
    name = f"{ref}[:{layers} layer{'s' if layers > 1 else ''}]"
    return description_of(name, folder, part, dtype, device)


def load(ref: str, dtype: str = "float32", device: str = "cpu", *, layers: int = 0, packed: bool = True) -> LoadedModel:
    """Load a model for inference: safetensors only, no code from the hub, gradients off.

    Args:
        dtype: of the weights; `int8` quantises them, see `kernels.int8`, and computes the rest in float32.
        layers: load the first ones only, see `first_layers`; 0: all.
        packed: use faster layers where they lose no precision, see `kernels`.

    Raises:
        InvalidSettings: no such dtype or device, or fewer layers.
        ModelNotFound, NoSafetensors, NoTokenizer, UnsupportedModel, CacheCannotForget: see `sybil_engine.core.errors`.
        ModelError: the weights cannot be read, or do not fit the config.
    """
    description = describe(ref, dtype=dtype, device=device, layers=layers)
    folder = find_weights(ref)
    config = first_layers(ref, read_config(ref, folder), layers)
    implementation = attention_for(config)
    model = read_weights(ref, folder, config, dtype, implementation, whole=not layers)
    model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
    if packed:
        fuse_llama(model)
    if dtype == INT8:
        quantize_linear_layers(model)
    if packed:
        pack_linear_layers(model)
        fuse_norms(model)
    return LoadedModel(model, description, implementation)


def read_model(ref: str, layers: int = 0) -> PreTrainedModel:
    """Read a model as transformers runs it, in float32, for texts that are measured and not served.

    Args:
        layers: only so many first ones; 0: all.

    Raises:
        ModelNotFound, ModelError: it cannot be read.
    """
    folder = find_weights(ref)
    config = first_layers(ref, read_config(ref, folder), layers)
    model: PreTrainedModel = read_weights(ref, folder, config, whole=not layers).eval()
    return model


def read_weights(
    ref: str,
    folder: Path,
    config: PreTrainedConfig,
    dtype: str = "float32",
    implementation: str | None = None,
    *,
    whole: bool = True,
) -> PreTrainedModel:
    """Read the weights in a folder that the config has a place for, as transformers runs them.

    Args:
        config: of a causal language model.
        implementation: of attention; None: as transformers chooses.
        whole: warn about weights that the config has no place for.

    Raises:
        ModelError: the weights cannot be read, or do not fit the config.
    """
    loads = model_class(config)
    assert loads is not None, "refuse_unsupported accepted it"
    disable_progress_bar()
    try:
        with nullcontext() if whole else without_report():
            # Its types do not say that there are two results.
            read: Any = loads.from_pretrained(
                folder,
                config=config,
                dtype=DTYPES.get(dtype, torch.float32),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation=implementation,
                output_loading_info=True,
            )
    except Exception as error:  # broken safetensors, wrong shapes, missing shards: many error types
        raise ModelError(
            f"the weights of {ref} in {folder} cannot be loaded; fetch the model again: {error}"
        ) from error
    model: PreTrainedModel = read[0]
    if missing := sorted(read[1]["missing_keys"]):
        raise ModelError(f"{ref} in {folder} lacks weights, {missing[0]} for one; fetch the model again")
    return model


def tokenizer_json(ref: str) -> bytes:
    """Read a model's tokenizer, as the `tokenizers` library stores it.

    Raises:
        ModelNotFound, NoTokenizer: there is none.
    """
    folder = find_tokenizer(ref)
    identify(folder)
    return (folder / TOKENIZER_FILE).read_bytes()


def attention_for(config: PreTrainedConfig) -> str:
    """Choose the attention implementation: ours if the architecture takes one, else its own."""
    attention.register()
    takes_ours = getattr(model_class(config), "_supports_attention_backend", False)
    return attention.IMPLEMENTATION if takes_ours else "eager"


def _check_settings(dtype: str, device: str) -> None:
    if dtype not in (*DTYPES, INT8):
        raise InvalidSettings(f"dtype is {dtype!r}; it must be one of {', '.join((*DTYPES, INT8))}")
    if dtype == INT8 and (device_kind(device) != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines):
        raise InvalidSettings(f"dtype is {INT8!r}, whose products run on x86 processors only; choose another dtype")
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InvalidSettings(
            f"device is {device!r}, which this machine does not offer; choose cpu, or cuda if there is a GPU "
            f"({first_line(error)})"
        ) from error


def device_kind(device: str) -> str:
    """A device without its number: cpu, cuda."""
    return device.partition(":")[0]
