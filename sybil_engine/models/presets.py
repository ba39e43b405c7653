"""Pairs of target and draft models that go by one name."""

from dataclasses import dataclass
from types import MappingProxyType

from sybil_engine.core.errors import InvalidSettings

EMBEDDED_TARGET = "embedded-target"
EMBEDDED_DRAFT = "embedded-draft"


@dataclass(frozen=True, slots=True)
class Preset:
    """References of a target and a draft model that share a tokenizer."""

    target: str
    draft: str


PRESETS = MappingProxyType(
    {
        "embedded": Preset(target=EMBEDDED_TARGET, draft=EMBEDDED_DRAFT),
        "gpt2": Preset(target="openai-community/gpt2-medium", draft="openai-community/gpt2"),
    }
)


def preset(name: str) -> Preset:
    """Return the pair called `name`.

    Raises:
        InvalidSettings: no such preset.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise InvalidSettings(f"preset is {name!r}; it must be one of {', '.join(PRESETS)}") from None
