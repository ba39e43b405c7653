"""Which two models a fleet serves, and whether they belong together."""

from dataclasses import dataclass

from sybil_engine.cli.exits import UserMistake
from sybil_engine.cli.options import Models
from sybil_engine.models.presets import PRESETS, preset

NO_DRAFTER = "none"


@dataclass(frozen=True, slots=True)
class Pair:
    """References of two models; `draft` may be "none"."""

    target: str
    draft: str

    @property
    def is_known(self) -> bool:
        """Whether it is the embedded pair, whose models come together in this package."""
        embedded = PRESETS["embedded"]
        return (self.target, self.draft) == (embedded.target, embedded.draft)


def pair_of(models: Models) -> Pair:
    """The pair that the options name.

    Raises:
        UserMistake: a target without a draft model: there is no telling which one would match it.
    """
    if models.target and not (models.draft or models.preset):
        raise UserMistake(
            f"--target {models.target} needs a --draft model with the same tokenizer; "
            f"name one, or say --draft {NO_DRAFTER} to go without"
        )
    named = preset(models.preset or "embedded")
    return Pair(models.target or named.target, models.draft or named.draft)


def check_pair(pair: Pair) -> None:
    """Refuse models that cannot be served together, before any weights are loaded.

    Raises:
        ModelError: one of them is missing, or of a kind that cannot be served.
        PairMismatch: their tokenizers differ.
    """
    # torch and transformers, which the embedded pair does not need here.
    from coordinator.pairing import check_pair as refuse_mismatch
    from sybil_engine.models.loading import describe

    target = describe(pair.target)
    if pair.draft != NO_DRAFTER:
        refuse_mismatch(target, describe(pair.draft))
