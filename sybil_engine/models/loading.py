"""Finding, checking and loading models: from a local folder, the Hugging Face hub, or this package."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.utils.logging import disable_progress_bar

from sybil_engine.core.errors import (
    CacheCannotForget,
    InvalidSettings,
    ModelError,
    ModelNotFound,
    NoSafetensors,
    UnsupportedModel,
)
from sybil_engine.core.types import ModelDescription
from sybil_engine.models import attention
from sybil_engine.models.kernels.fused_llama import fuse_llama
from sybil_engine.models.kernels.fused_norm import fuse_norms
from sybil_engine.models.kernels.int8 import quantize_linear_layers
from sybil_engine.models.kernels.packed import pack_linear_layers
from sybil_engine.models.presets import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.models.tokenizer import TOKENIZER_FILE, TokenizerIdentity, identify

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Weights in 8 bits, everything else in float32.
INT8 = "int8"
_EMBEDDED = {
    EMBEDDED_TARGET: Path(__file__).parent / "embedded" / "target",
    EMBEDDED_DRAFT: Path(__file__).parent / "embedded" / "draft",
}
_DESCRIPTION_FILES = ("*.json",)
_ALL_FILES = ("*.json", "*.safetensors")
_WINDOWED_LAYERS = frozenset({"sliding_attention", "chunked_attention", "reference_sliding_attention", "local"})
_ADVICE = "use a model with full attention in every layer, such as Llama, GPT-2 or Qwen2"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready for passes, and what it is.

    Attributes:
        attention: the transformers attention implementation in use; our own wherever the architecture takes one.
    """

    model: PreTrainedModel
    description: ModelDescription
    attention: str = attention.IMPLEMENTATION


def describe(ref: str, *, dtype: str = "float32", device: str = "cpu") -> ModelDescription:
    """Say what `ref` is, without loading weights.

    Args:
        ref: a local folder, a hub id, `embedded-target` or `embedded-draft`.

    Raises:
        InvalidSettings: no such dtype or device.
        ModelNotFound, NoSafetensors, NoTokenizer, UnsupportedModel, CacheCannotForget: see `sybil_engine.core.errors`.
    """
    _check_settings(dtype, device)
    folder = _find(ref, _DESCRIPTION_FILES, lambda folder: (folder / "config.json").is_file())
    if not _is_hub_snapshot(ref):
        _require_safetensors(ref, folder)
    config = _read_config(ref, folder)
    _refuse_unsupported(ref, config)
    return _description_of(ref, folder, config, identify(folder), dtype, device)


def load(ref: str, dtype: str = "float32", device: str = "cpu", *, packed: bool = True) -> LoadedModel:
    """Load a model for inference: safetensors only, no code from the hub, gradients off.

    Args:
        dtype: of the weights; `int8` quantises them, see `quantized_linear`, and computes the rest in float32.
        packed: use quicker layers where nothing is lost by it, see `packed_linear`, `fused_llama` and `fused_norm`.

    Raises:
        InvalidSettings: no such dtype or device.
        ModelNotFound, NoSafetensors, NoTokenizer, UnsupportedModel, CacheCannotForget: see `sybil_engine.core.errors`.
        ModelError: the weights cannot be read, or do not fit the config.
    """
    description = describe(ref, dtype=dtype, device=device)
    folder = _find(ref, _ALL_FILES, _has_safetensors)
    _require_safetensors(ref, folder)
    config = _read_config(ref, folder)
    implementation = attention_for(config)
    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES.get(dtype, torch.float32),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation=implementation,
        )
    except Exception as error:  # torn safetensors, misfitting shapes, missing shards: each library has its own tree
        raise ModelError(
            f"the weights of {ref} in {folder} cannot be loaded; fetch the model again: {error}"
        ) from error
    ready = ready_for_passes(model, device)
    if packed:
        fuse_llama(ready)
    if dtype == INT8:
        quantize_linear_layers(ready)
    if packed:
        pack_linear_layers(ready)
        fuse_norms(ready)
    return LoadedModel(ready, description, implementation)


def find_folder(ref: str) -> Path:
    """Return the folder that holds a model, fetched from the hub if it has to be.

    Raises:
        ModelNotFound: there is none.
    """
    return _find(ref, _ALL_FILES, _has_safetensors)


def tokenizer_json(ref: str) -> bytes:
    """Read a model's tokenizer, as the `tokenizers` library stores it.

    Raises:
        ModelNotFound, NoTokenizer: there is none.
    """
    folder = _find(ref, _DESCRIPTION_FILES, lambda folder: (folder / TOKENIZER_FILE).is_file())
    identify(folder)
    return (folder / TOKENIZER_FILE).read_bytes()


def ready_for_passes(model: PreTrainedModel, device: str = "cpu") -> PreTrainedModel:
    """Put a model on its device, into evaluation mode, without gradients."""
    model.to(device)  # type: ignore[arg-type]
    model.train(False).requires_grad_(False)
    return model


def attention_for(config: PreTrainedConfig) -> str:
    """Choose the attention implementation: ours where the architecture takes one from outside, else its own."""
    attention.register()
    takes_ours = getattr(_model_class(config), "_supports_attention_backend", False)
    return attention.IMPLEMENTATION if takes_ours else "eager"


def _check_settings(dtype: str, device: str) -> None:
    if dtype not in (*DTYPES, INT8):
        raise InvalidSettings(f"dtype is {dtype!r}; it must be one of {', '.join((*DTYPES, INT8))}")
    if dtype == INT8 and (device_kind(device) != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines):
        raise InvalidSettings(f"dtype is {INT8!r}, whose products run on x86 processors only; choose another dtype")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidSettings(f"device is {device!r}, which this machine does not offer: {error}") from error


def device_kind(device: str) -> str:
    """A device without its number: cpu, cuda."""
    return device.partition(":")[0]


def _is_hub_snapshot(ref: str) -> bool:
    return ref not in _EMBEDDED and not Path(ref).expanduser().exists()


def _find(ref: str, files: Iterable[str], complete: Callable[[Path], bool]) -> Path:
    """Return the folder that holds `ref`, fetched from the hub if it has to be."""
    if ref in _EMBEDDED:
        folder = _EMBEDDED[ref]
        if not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"the embedded model {ref!r} is not in {folder}; install the package with its data, or train it: "
                "see training/README.md"
            )
        return folder
    folder = Path(ref).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelNotFound(f"{ref} is a file; name the folder that holds config.json and the safetensors files")
    if ref.startswith(("/", ".", "~")) or ref.count("/") > 1:
        raise ModelNotFound(
            f"no folder {folder.absolute()}; check the path, or name a hub id such as openai-community/gpt2"
        )
    return _fetch(ref, list(files), complete)


def _fetch(ref: str, files: list[str], complete: Callable[[Path], bool]) -> Path:
    """Return the hub's snapshot: the one in the local hub cache if it is complete, else download it."""
    for offline in (True, False):
        try:
            folder = Path(snapshot_download(ref, allow_patterns=files, local_files_only=offline))
        except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
            if offline:
                continue
            raise ModelNotFound(
                f"no folder and no reachable hub model called {ref!r} ({_first_line(error)}); check the name and the "
                "network, log in with `hf auth login` if it is gated, or download it and name its folder"
            ) from error
        if complete(folder) or not offline:
            return folder
    raise AssertionError("unreachable: the online attempt returns or raises")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _require_safetensors(ref: str, folder: Path) -> None:
    if _has_safetensors(folder):
        return
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for path in folder.glob(pattern))
    found = f"only {', '.join(others)}" if others else "no weights at all"
    raise NoSafetensors(
        f"{ref} has no *.safetensors in {folder}, {found}; other formats can carry code and are not read: convert "
        "them with `model.save_pretrained(folder)`"
    )


def _read_config(ref: str, folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelNotFound(f"{ref} has no config.json in {folder}; name a folder in Hugging Face format")
    try:
        document = json.loads(path.read_text())
        if "auto_map" in document and not _known_type(document):
            raise UnsupportedModel(f"{ref} brings its own code, which is never run; {_ADVICE}")
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedModel(f"{path} is not a config that transformers knows: {_first_line(error)}") from error
    return config


def _known_type(document: dict[str, Any]) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return document.get("model_type") in CONFIG_MAPPING


def _model_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that transformers would load for causal language modelling, None if it has none."""
    try:
        found: Any = AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        return None
    model_class: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return model_class


def _refuse_unsupported(ref: str, config: PreTrainedConfig) -> None:
    """Refuse, from the config alone, what cannot run over a slotted cache."""
    kind = config.model_type
    model_class = _model_class(config)
    if model_class is None or config.is_encoder_decoder:
        raise UnsupportedModel(f"{ref} is a {kind!r} model, which is not a causal language model; {_ADVICE}")
    _refuse_stateful(ref, config, model_class)
    parameters = inspect.signature(model_class.forward).parameters
    missing = sorted({"position_ids", "attention_mask", "past_key_values"} - set(parameters))
    if missing:
        raise UnsupportedModel(
            f"{ref} is a {kind!r} model, whose forward pass takes no {', '.join(missing)}; {_ADVICE}"
        )


def _refuse_stateful(ref: str, config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
    """Refuse caches whose tokens cannot be taken back one by one."""
    odd = {index: kind for index, kind in enumerate(_layer_types(config)) if kind != "full_attention"}
    windowed = {index: kind for index, kind in odd.items() if kind in _WINDOWED_LAYERS}
    if getattr(model_class, "_is_stateful", False) or len(windowed) < len(odd):
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
    """The kind of each layer, by the names that transformers' caches go by."""
    text_config = config.get_text_config(decoder=True)
    if text_config.model_type == "gpt_neo":
        return ["full_attention" if kind == "global" else kind for kind in text_config.attention_layers]
    return list(get_layer_types_and_kwargs(text_config)[0])


def _name(layers: Mapping[int, str]) -> str:
    """Name layers briefly, `layers 0, 2, 4 and 9 more (sliding_attention)`; nothing for none."""
    if not layers:
        return ""
    indices = sorted(layers)
    shown = ", ".join(str(index) for index in indices[:6])
    more = f" and {len(indices) - 6} more" if len(indices) > 6 else ""
    return f"layer{'s' if len(indices) > 1 else ''} {shown}{more} ({', '.join(sorted(set(layers.values())))})"


def _description_of(
    ref: str, folder: Path, config: PreTrainedConfig, identity: TokenizerIdentity, dtype: str, device: str
) -> ModelDescription:
    model_class = _model_class(config)
    assert model_class is not None
    text_config = config.get_text_config(decoder=True)
    vocabulary_size = int(text_config.vocab_size)
    sources = [_read_json(folder / "generation_config.json"), config.to_dict()]
    names = _read_json(folder / "tokenizer_config.json")
    return ModelDescription(
        model_id=ref,
        architecture=model_class.__name__,
        parameters=_count_parameters(config),
        vocabulary_size=vocabulary_size,
        tokenizer_fingerprint=identity.fingerprint,
        tokenizer_parts=identity.parts,
        end_token_ids=_special_ids("eos_token", sources, names, identity, vocabulary_size),
        begin_token_id=next(iter(_special_ids("bos_token", sources, names, identity, vocabulary_size)), None),
        context_tokens=_context_tokens(ref, text_config),
        dtype=dtype,
        device=device,
    )


def _count_parameters(config: PreTrainedConfig) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


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
