"""Which weights a service loads, from what people write: a model of its own, or a part of the target."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.references import TARGET_ITSELF

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The weights of one model.

    Attributes:
        ref: a folder, a hub id, or a model of this package.
        layers: how many of its first layers, with its own final norm and head; 0: all.
    """

    ref: str
    dtype: Dtype = "float32"
    layers: int = 0


def draft_choice(
    draft: str, target: str, layers: int = 0, dtype: Dtype | None = None, *, both: Dtype = "float32"
) -> ModelChoice:
    """The weights that a draft model's reference names.

    Args:
        draft: a reference, or `target` for the target itself; either may end in a type, as in `target:int8`.
        target: the target model's reference.
        layers: of the target; 0: all.
        dtype: that was asked for the draft model alone, apart from its reference.
        both: the type if nothing else names one.

    Raises:
        InvalidSettings: no such type; two of them; or layers of something else than the target.
    """
    name, own = _parted(draft)
    if layers and name != TARGET_ITSELF:
        raise InvalidSettings(
            f"{layers} layers are to draft, but the draft model is {draft}; layers are those of the target: say "
            f"{TARGET_ITSELF} for the draft model, or leave them out"
        )
    if own and dtype and own != dtype:
        raise InvalidSettings(f"the draft model is {draft}, and its type is to be {dtype}; leave one of the types out")
    return ModelChoice(target if name == TARGET_ITSELF else name, own or dtype or both, layers)


def _parted(draft: str) -> tuple[str, Dtype | None]:
    """The name and the type of a reference; a folder whose own name has a colon is taken as it is."""
    name, colon, suffix = draft.rpartition(":")
    if not colon or Path(draft).expanduser().exists():
        return draft, None
    dtypes: tuple[Dtype, ...] = get_args(Dtype)
    for dtype in dtypes:
        if suffix == dtype and name:
            return name, dtype
    raise InvalidSettings(
        f"{draft!r} is no draft model: a colon stands between a model and the type of its weights, one of "
        f"{', '.join(dtypes)}, as in {name or TARGET_ITSELF}:{dtypes[-1]}"
    )
