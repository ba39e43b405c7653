"""Models made larger without changing what they compute: the cost of any size, with real tokens.

Wider: hidden size, heads and feed-forward size are padded with zeros. RMSNorm divides by the root of the mean square,
which zeros make smaller by sqrt(hidden / grown hidden): its weights shrink by as much, and its epsilon by the square.
Deeper: further layers have weights of their own, but output projections of zero: each adds nothing to what passes by.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.models.finding import find_folder

FOLDER = Path("build") / "grown"
_FORMAT = 1
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
_FEED_FORWARD_STEP = 32
_MOST_LAYERS = 160
_TOLERANCE = 0.02
_SHARD_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how many parameters a Llama model has."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """The shape that a config.json describes."""
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            feed_forward=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary_size=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def parameters(self) -> int:
        """Weights, biases left out."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        embeddings = self.vocabulary_size * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden


def parameters_of(size: str) -> int:
    """Read a number of parameters, such as 350M or 1.3B.

    Raises:
        InvalidSettings: it is not one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB])", size.strip().upper())
    if not match or not float(match[1]):
        raise InvalidSettings(
            f"{size!r} is not a size to grow to; write a number of parameters with K, M or B behind it, such as 350M"
        )
    return round(float(match[1]) * _UNITS[match[2]])


def check_growth(ref: str, size: str) -> Shape:
    """Check that a model can be grown to a size; returns the shape that it will have.

    Raises:
        InvalidSettings: the size is impossible.
        ModelNotFound: there is no such model.
    """
    parameters = parameters_of(size)
    folder = find_folder(ref)
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "llama":
        raise InvalidSettings(
            f"{ref} is a {config.get('model_type')!r} model, and only Llama models can be grown; "
            "leave --grow-target and --grow-draft out"
        )
    base = Shape.of(config)
    if parameters < base.parameters:
        raise InvalidSettings(
            f"{ref} cannot be grown to {size}: it has {base.parameters / 1e6:.1f}M parameters already; name more"
        )
    shape = plan(base, parameters)
    if shape is None:
        raise InvalidSettings(
            f"no shape of {ref} has about {size} parameters; name more than {base.parameters / 1e6:.1f}M, "
            "and at most a few hundred B"
        )
    _check_room(ref, size, folder, shape)
    return shape


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


def plan(base: Shape, parameters: int) -> Shape | None:
    """Choose the shape with so many parameters whose proportions are most like the original's; None if there is none.

    The feed-forward size takes up what layers and hidden size leave, so that the number is met closely.
    """
    group = base.heads // base.kv_heads
    # A head for each `head_dim` of the hidden size, in whole groups, as in models of that size.
    step = base.head_dim * group
    best: tuple[float, Shape] | None = None
    for layers in range(base.layers, _MOST_LAYERS + 1):
        hidden = base.hidden
        while hidden * hidden * layers <= 2 * parameters:
            shape = _filled(base, layers, hidden, parameters)
            if shape and abs(shape.parameters / parameters - 1) <= _TOLERANCE:
                distance = _distance(base, shape)
                if best is None or distance < best[0]:
                    best = (distance, shape)
            hidden = (hidden // step + 1) * step
    return best[1] if best else None


def _filled(base: Shape, layers: int, hidden: int, parameters: int) -> Shape | None:
    """The shape of so many layers of such a hidden size, its feed-forward size chosen to meet the parameters."""
    group = base.heads // base.kv_heads
    kv_heads = max(base.kv_heads, hidden // (base.head_dim * group)) if hidden > base.hidden else base.kv_heads
    heads = kv_heads * group
    if hidden % heads:
        return None
    empty = Shape(layers, hidden, 0, heads, kv_heads, base.head_dim, base.vocabulary_size, base.tied)
    left = (parameters - empty.parameters) / (3 * hidden * layers)
    feed_forward = round(left / _FEED_FORWARD_STEP) * _FEED_FORWARD_STEP
    if feed_forward < base.feed_forward and abs(feed_forward - base.feed_forward) <= _FEED_FORWARD_STEP:
        feed_forward = base.feed_forward
    if feed_forward < base.feed_forward:
        return None
    return Shape(layers, hidden, feed_forward, heads, kv_heads, base.head_dim, base.vocabulary_size, base.tied)


def _distance(base: Shape, shape: Shape) -> float:
    """How unlike two shapes' proportions are, as a sum of logarithms."""
    depth = math.log((shape.hidden / shape.layers) / (base.hidden / base.layers))
    width = math.log((shape.feed_forward / shape.hidden) / (base.feed_forward / base.hidden))
    return abs(depth) + 2 * abs(width)


def _check_room(ref: str, size: str, source: Path, shape: Shape) -> None:
    """Refuse what neither the disk nor the memory could hold."""
    here = next(folder for folder in (FOLDER.absolute(), *FOLDER.absolute().parents) if folder.exists())
    needed_bytes = shape.parameters * min(_weight_bytes(source), 4)
    free_bytes = shutil.disk_usage(here).free
    if needed_bytes > free_bytes:
        raise InvalidSettings(
            f"{ref} grown to {size} needs {needed_bytes / 1e9:.0f} GB in {here}, where {free_bytes / 1e9:.0f} GB are "
            "free; name a smaller size or make room"
        )


def _weight_bytes(source: Path) -> int:
    config = json.loads((source / "config.json").read_text())
    return 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2


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
    config = json.loads((source / "config.json").read_text())
    base = Shape.of(config)
    for path in source.glob("*.json"):
        if path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    config |= {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": float(config["rms_norm_eps"]) * base.hidden / shape.hidden,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in sorted(source.glob("*.safetensors"))]
        holders = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - not a mapping
        original = {name: file.get_tensor(name) for name, file in holders.items()}
    _save_in_shards(_grown_weights(original, base, shape), folder)


def _grown_weights(original: Mapping[str, Tensor], base: Shape, shape: Shape) -> Iterator[tuple[str, Tensor]]:
    """Each weight of the grown model, by name; only one exists at a time."""
    for name, tensor in original.items():
        yield name, _grown(name, tensor, base, shape)
    last = f"model.layers.{base.layers - 1}."
    pattern = {name.removeprefix(last): tensor for name, tensor in original.items() if name.startswith(last)}
    generator = torch.Generator().manual_seed(0)
    for layer in range(base.layers, shape.layers):
        for name, tensor in pattern.items():
            grown = _grown(name, tensor, base, shape)
            if "norm" in name:
                grown = torch.ones_like(grown)
            elif name.startswith(("self_attn.o_proj", "mlp.down_proj")):
                grown = torch.zeros_like(grown)
            else:
                # What they compute is thrown away, but it should cost what real weights cost.
                grown = torch.empty(grown.shape).normal_(0, 0.02, generator=generator).to(grown.dtype)
            yield f"model.layers.{layer}.{name}", grown


def _grown(name: str, tensor: Tensor, base: Shape, shape: Shape) -> Tensor:
    """One weight of the original, padded.

    Args:
        tensor: [out, in], or [out] of a norm or a bias.
    """
    if "norm" in name:
        # Kept in float32: rounded once more, it would compute something else.
        return _padded(tensor.float() * math.sqrt(base.hidden / shape.hidden), (shape.hidden,))
    sizes = {
        "q_proj": (shape.heads * shape.head_dim, shape.hidden),
        "k_proj": (shape.kv_heads * shape.head_dim, shape.hidden),
        "v_proj": (shape.kv_heads * shape.head_dim, shape.hidden),
        "o_proj": (shape.hidden, shape.heads * shape.head_dim),
        "gate_proj": (shape.feed_forward, shape.hidden),
        "up_proj": (shape.feed_forward, shape.hidden),
        "down_proj": (shape.hidden, shape.feed_forward),
        "embed_tokens": (shape.vocabulary_size, shape.hidden),
        "lm_head": (shape.vocabulary_size, shape.hidden),
    }
    module = name.split(".")[-2]
    return _padded(tensor, sizes[module][: tensor.dim()])


def _padded(tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """The tensor in the first corner of a larger one of zeros."""
    padded = tensor.new_zeros(size)
    padded[tuple(slice(length) for length in tensor.shape)] = tensor
    return padded


def _save_in_shards(weights: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Write weights in files of bounded size, with the index that transformers reads."""
    shard: dict[str, Tensor] = {}
    shards: list[list[str]] = []

    def flush() -> None:
        if shard:
            save_file(dict(shard), folder / f"shard-{len(shards)}.safetensors", metadata={"format": "pt"})
            shards.append(list(shard))
            shard.clear()

    for name, tensor in weights:
        shard[name] = tensor.contiguous()
        if sum(each.numel() * each.element_size() for each in shard.values()) >= _SHARD_BYTES:
            flush()
    flush()
    if len(shards) == 1:
        (folder / "shard-0.safetensors").rename(folder / "model.safetensors")
        return
    names: dict[str, str] = {}
    for number, members in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / file)
        names |= dict.fromkeys(members, file)
    index = {"metadata": {"total_size": sum(path.stat().st_size for path in folder.glob("*.safetensors"))}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": names}, indent=2) + "\n")
