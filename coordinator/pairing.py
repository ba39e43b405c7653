"""Which models belong together."""

from sybil_engine.core.errors import PairMismatch
from sybil_engine.core.types import ModelDescription

# Fields that verifiers must share to commit the same tokens, and the flag that sets each.
_SAME_TARGET = {
    "model_id": "--model",
    "architecture": "--model",
    "parameters": "--model",
    "vocabulary_size": "--model",
    "tokenizer_fingerprint": "--model",
    "dtype": "--dtype",
    "numerics": "--numerics",
}
# In exact mode also the fields that decide the order of additions in a pass.
_SAME_BITS = {"kernels": "--device and --packed", "threads": "--threads"}


def check_pair(target: ModelDescription, draft: ModelDescription) -> None:
    """Check that a drafter can draft for a verifier: the same token ids must mean the same text.

    Their output layers may be padded to different sizes, since the extra ids stand for no text.

    Raises:
        PairMismatch: names both sides, what differs, and what to change.
    """
    if target.tokenizer_fingerprint != draft.tokenizer_fingerprint:
        raise PairMismatch(
            f"the draft model {draft.model_id} and the target model {target.model_id} have different tokenizers: "
            f"fingerprint {draft.tokenizer_fingerprint} and {target.tokenizer_fingerprint}; they differ in "
            f"{_differing_parts(target, draft)}. Choose a draft model that was made for this target"
        )


def check_vocabulary(model: ModelDescription, tokenizer_size: int) -> None:
    """Check that a model knows every token of the tokenizer.

    Raises:
        PairMismatch: it does not.
    """
    if model.vocabulary_size < tokenizer_size:
        raise PairMismatch(
            f"{model.model_id} knows token ids below {model.vocabulary_size}, but its tokenizer has ids up to "
            f"{tokenizer_size - 1}; serve a model and a tokenizer that belong together"
        )


def check_same_target(known: ModelDescription, other: ModelDescription) -> None:
    """Check that two verifiers commit the same tokens: a session may move from one to the other.

    Row classes match if they share a row count. How many larger ones a verifier finds depends on its search time.

    Raises:
        PairMismatch: names the first field that differs, both values, and the flag to change.
    """
    names = _SAME_TARGET | (_SAME_BITS if known.numerics == "exact" else {})
    for name, flag in names.items():
        if getattr(known, name) != getattr(other, name):
            raise PairMismatch(
                f"two verifiers would not commit the same tokens: {name} is {getattr(known, name)} on one and "
                f"{getattr(other, name)} on the other; start all verifiers with the same {flag}"
            )
    if known.row_class and other.row_class and not set(known.row_class) & set(other.row_class):
        raise PairMismatch(
            f"two verifiers compute in shapes that do not agree bit for bit: passes of {known.row_class} rows on one "
            f"and {other.row_class} on the other; start both with the same --row-class"
        )


def _differing_parts(target: ModelDescription, draft: ModelDescription) -> str:
    names = sorted(target.tokenizer_parts.keys() | draft.tokenizer_parts.keys())
    parts = [name for name in names if target.tokenizer_parts.get(name) != draft.tokenizer_parts.get(name)]
    return ", ".join(parts) if parts else "parts that they do not name"


def share_processors(target: ModelDescription, draft: ModelDescription) -> bool:
    """Whether drafting slows verify passes down: they share processors, and their threads occupy all of them."""
    common = set(target.processors) & set(draft.processors)
    every = set(target.processors) | set(draft.processors)
    return bool(common) and target.threads + draft.threads >= len(every)
