"""Models made larger without changing what they compute: the cost of any size, with real tokens.

Wider: hidden size, heads and feed-forward size are padded with zeros. RMSNorm divides by the root of the mean square,
which the zeros shrink by sqrt(hidden / grown hidden): its weights shrink by the same factor, its epsilon by the square.
Deeper: added layers have random weights, but output projections of zero, so that they add nothing.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.models.finding import find_folder

FOLDER = Path("build") / "grown"
_FORMAT = 3
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
_FEED_FORWARD_STEP = 32
_MOST_LAYERS = 160
_TOLERANCE = 0.02
_SHARD_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of a Llama model's config that determine how many parameters it has."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    @classmethod
    def of(cls, config: LlamaConfig) -> "Shape":
        """The shape of a model with this config."""
        return cls(**{each.name: getattr(config, each.name) for each in fields(cls)})

    @property
    def parameters(self) -> int:
        """Weights, biases left out."""
        hidden = self.hidden_size
        attention = 2 * hidden * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        layer = attention + 3 * hidden * self.intermediate_size + 2 * hidden
        embeddings = self.vocab_size * hidden * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings + hidden


def parameters_of(size: str) -> int:
    """Read a number of parameters, such as 350M or 1.3B.

    Raises:
        InvalidSettings: it is not one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB])", size.strip().upper())
    if not match or not float(match[1]):
        raise InvalidSettings(
            f"{size!r} is not a size to grow to; write a number of parameters that ends in K, M or B, such as 350M"
        )
    return round(float(match[1]) * _UNITS[match[2]])


def check_growth(ref: str, size: str) -> Shape:
    """Check that a model can be grown to a size; returns the shape that it will have.

    Raises:
        InvalidSettings: the size is impossible.
        ModelNotFound: there is no such model.
    """
    parameters = parameters_of(size)
    config = json.loads((find_folder(ref) / "config.json").read_text())
    if config.get("model_type") != "llama":
        raise InvalidSettings(
            f"{ref} is a {config.get('model_type')!r} model, and only Llama models can be grown; "
            "leave --grow-target and --grow-draft out"
        )
    base = Shape.of(LlamaConfig.from_dict(config))
    shape = plan(base, parameters)
    if shape is None:
        raise InvalidSettings(
            f"{ref} cannot be grown to {size}: it has {base.parameters / 1e6:.1f}M parameters already; name more, and "
            "at most a few hundred B"
        )
    in_float32 = config.get("dtype", config.get("torch_dtype")) == "float32"
    needed_bytes = shape.parameters * (4 if in_float32 else 2)
    free_bytes = shutil.disk_usage(Path()).free
    if needed_bytes > free_bytes:
        raise InvalidSettings(
            f"{ref} grown to {size} needs {needed_bytes / 1e9:.0f} GB in {FOLDER}, where {free_bytes / 1e9:.0f} "
            "GB are free; name a smaller size or make room"
        )
    return shape


def plan(base: Shape, parameters: int) -> Shape | None:
    """Choose the shape of this many parameters whose proportions are closest to the original's, if there is one.

    The feed-forward size is chosen last, so that the number is met closely.
    """
    fitting = []
    for layers in range(base.num_hidden_layers, _MOST_LAYERS + 1):
        for hidden in _hidden_sizes(base, layers, parameters):
            shape = _filled(base, layers, hidden, parameters)
            if shape and abs(shape.parameters / parameters - 1) <= _TOLERANCE:
                fitting.append(shape)
    return min(fitting, key=lambda shape: _distance(base, shape), default=None)


def _hidden_sizes(base: Shape, layers: int, parameters: int) -> Iterator[int]:
    """The base's hidden size, then larger ones with a head for each `head_dim`, in whole groups of heads."""
    step = base.head_dim * base.num_attention_heads // base.num_key_value_heads
    hidden = base.hidden_size
    while hidden * hidden * layers <= 2 * parameters:
        yield hidden
        hidden = (hidden // step + 1) * step


def _filled(base: Shape, layers: int, hidden: int, parameters: int) -> Shape | None:
    """The shape with these layers and this hidden size whose feed-forward size meets the parameters."""
    group = base.num_attention_heads // base.num_key_value_heads
    kv_heads = base.num_key_value_heads
    if hidden > base.hidden_size:
        kv_heads = max(kv_heads, hidden // (base.head_dim * group))
    if hidden % (kv_heads * group):
        return None
    empty = replace(base, num_hidden_layers=layers, hidden_size=hidden, intermediate_size=0)
    empty = replace(empty, num_attention_heads=kv_heads * group, num_key_value_heads=kv_heads)
    left = (parameters - empty.parameters) / (3 * hidden * layers)
    feed_forward = round(left / _FEED_FORWARD_STEP) * _FEED_FORWARD_STEP
    if feed_forward < base.intermediate_size - _FEED_FORWARD_STEP:
        return None
    return replace(empty, intermediate_size=max(feed_forward, base.intermediate_size))


def _distance(base: Shape, shape: Shape) -> float:
    """How different two shapes' proportions are, as a sum of logarithms."""
    deeper = shape.num_hidden_layers / base.num_hidden_layers
    wider, more_feed_forward = shape.hidden_size / base.hidden_size, shape.intermediate_size / base.intermediate_size
    return abs(math.log(wider / deeper)) + 2 * abs(math.log(more_feed_forward / wider))


def grow(ref: str, size: str, into: Path = FOLDER) -> Path:
    """Return the folder of a grown model, written now or by an earlier call.

    Raises:
        InvalidSettings, ModelNotFound: see `check_growth`.
    """
    shape = check_growth(ref, size)
    source = find_folder(ref)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", Path(ref).name)
    folder = into.absolute() / f"{name}-{size.strip().upper()}-{_fingerprint(source, shape)}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(source, shape, partial)
    partial.rename(folder)
    return folder


def _fingerprint(source: Path, shape: Shape) -> str:
    """A name for what would be written: the source's bytes, the shape, and this module's format."""
    digest = hashlib.sha256(json.dumps([_FORMAT, asdict(shape)]).encode())
    for path in (source / "config.json", source / "tokenizer.json", *sorted(source.glob("*.safetensors"))):
        if path.exists():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _write(source: Path, shape: Shape, folder: Path) -> None:
    """Write config, tokenizer and weights."""
    original: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(source, dtype="auto", use_safetensors=True)
    config = LlamaConfig.from_dict(original.config.to_dict())
    config.rms_norm_eps *= config.hidden_size / shape.hidden_size
    config.update(asdict(shape))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        grown = AutoModelForCausalLM.from_config(config, dtype=original.dtype)
    weights = _grown_weights(original.state_dict(), grown.state_dict())
    grown.save_pretrained(folder, state_dict=weights, max_shard_size=_SHARD_BYTES)
    for path in source.glob("*.json"):
        if path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)


@torch.inference_mode()
def _grown_weights(original: Mapping[str, Tensor], grown: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the grown model by name.

    Args:
        original: its weights stand in the first corner of larger ones.
        grown: random weights of the larger shape; changed in place.
    """
    weights = dict(grown)
    for name, weight in grown.items():
        if name in original:
            weight.zero_()[tuple(map(slice, original[name].shape))] = original[name]
            if "norm" in name:
                # Kept in float32: rounded once more, it would compute something else.
                scale = math.sqrt(len(original[name]) / len(weight))
                weights[name] = weight.float() * scale
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            # The other added weights stay random: their results are discarded, but should cost what real ones cost.
            weight.zero_()
    return weights
