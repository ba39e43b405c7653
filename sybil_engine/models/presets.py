"""Pairs of target and draft models, and the names of some of them."""

from dataclasses import dataclass
from types import MappingProxyType

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET, NO_DRAFTER
from sybil_engine.core.types import ModelDescription


@dataclass(frozen=True, slots=True)
class Pair:
    """References of a target and a draft model that share a tokenizer; `draft` may be "none"."""

    target: str
    draft: str

    @property
    def is_embedded(self) -> bool:
        """Whether it is the pair that comes with this package, which needs no check."""
        return self == PRESETS["embedded"]

    def described(self) -> tuple[ModelDescription, ModelDescription | None]:
        """The descriptions of both models, without loading weights; None if there is no drafter.

        Raises:
            ModelError: one of them is missing, or cannot be served.
        """
        # Imports torch and transformers, which the embedded pair does not need here.
        from sybil_engine.models.loading import describe

        return describe(self.target), None if self.draft == NO_DRAFTER else describe(self.draft)


PRESETS = MappingProxyType(
    {
        "embedded": Pair(target=EMBEDDED_TARGET, draft=EMBEDDED_DRAFT),
        "gpt2": Pair(target="openai-community/gpt2-medium", draft="openai-community/gpt2"),
    }
)


def pair_of(preset: str | None = None, target: str | None = None, draft: str | None = None) -> Pair:
    """The pair that `--preset`, `--target` and `--draft` name; by default the embedded one.

    Raises:
        InvalidSettings: no such preset; or a target without a draft model, which cannot be guessed.
    """
    if target and not (draft or preset):
        raise InvalidSettings(
            f"--target {target} needs a --draft model with the same tokenizer; "
            f"name one, or say --draft {NO_DRAFTER} to go without"
        )
    named = PRESETS.get(preset or "embedded")
    if named is None:
        raise InvalidSettings(f"preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    return Pair(target or named.target, draft or named.draft)
