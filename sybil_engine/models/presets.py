"""Pairs of target and draft models, and the names of some of them."""

from dataclasses import dataclass
from types import MappingProxyType

from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.model_choice import Dtype, ModelChoice, draft_choice
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET, NO_DRAFTER, TARGET_ITSELF
from sybil_engine.core.types import ModelDescription


@dataclass(frozen=True, slots=True)
class Pair:
    """References of a target and a draft model that share a tokenizer; see `draft_choice`. `draft` may be "none"."""

    target: str
    draft: str
    draft_layers: int = 0

    @property
    def is_embedded(self) -> bool:
        """Whether it is the pair that comes with this package, which needs no check."""
        return self == PRESETS["embedded"]

    @property
    def draft_choice(self) -> ModelChoice | None:
        """The draft model's weights; None if there is no drafter."""
        return None if self.draft == NO_DRAFTER else draft_choice(self.draft, self.target, self.draft_layers)

    @property
    def target_drafts(self) -> bool:
        """Whether the target's own weights draft."""
        return self.draft.partition(":")[0] == TARGET_ITSELF

    def described(self) -> tuple[ModelDescription, ModelDescription | None]:
        """The descriptions of both models, without loading weights; None if there is no drafter.

        Raises:
            InvalidSettings: the target has fewer layers than are to draft.
            ModelError: one of them is missing, or cannot be served.
        """
        # Imports torch and transformers, which the embedded pair does not need here.
        from sybil_engine.models.loading import describe

        draft = self.draft_choice
        return describe(self.target), describe(draft.ref, layers=draft.layers) if draft else None


PRESETS = MappingProxyType(
    {
        "embedded": Pair(target=EMBEDDED_TARGET, draft=EMBEDDED_DRAFT),
        "gpt2": Pair(target="openai-community/gpt2-medium", draft="openai-community/gpt2"),
    }
)


def pair_of(
    preset: str | None = None,
    target: str | None = None,
    draft: str | None = None,
    draft_layers: int = 0,
    draft_dtype: Dtype | None = None,
) -> Pair:
    """The pair that `--preset`, `--target`, `--draft` and `--draft-layers` name; by default the embedded one.

    Args:
        draft_dtype: what `--draft-dtype` says, only to be checked.

    Raises:
        InvalidSettings: no such preset; a target without a draft model, which cannot be guessed; or see `draft_choice`.
    """
    if target and not (draft or preset):
        raise InvalidSettings(
            f"--target {target} needs a --draft model with the same tokenizer; "
            f"name one, or say --draft {TARGET_ITSELF} --draft-layers K to draft with its first K layers, or --draft "
            f"{NO_DRAFTER} to go without"
        )
    named = PRESETS.get(preset or "embedded")
    if named is None:
        raise InvalidSettings(f"preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    pair = Pair(target or named.target, draft or named.draft, draft_layers)
    draft_choice(pair.draft, pair.target, pair.draft_layers, draft_dtype)
    return pair
