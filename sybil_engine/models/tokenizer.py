"""What makes two tokenizers the same: a fingerprint of each part that decides ids or text.

Padding, truncation and post-processing settings are left out: they change neither the meaning of ids nor how text is
split into tokens, and models of one family differ in them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from sybil_engine.core.errors import NoTokenizer

TOKENIZER_FILE = "tokenizer.json"
_COSMETIC_KEYS = frozenset({"trim_offsets"})


@dataclass(frozen=True, slots=True)
class TokenizerIdentity:
    """Fingerprints of one tokenizer, SHA-256 in hexadecimal.

    Attributes:
        fingerprint: over all parts.
        parts: by name, so that a difference can be named.
        token_ids: id of each added token, by its text.
    """

    fingerprint: str
    parts: Mapping[str, str]
    token_ids: Mapping[str, int]


def identify(folder: Path) -> TokenizerIdentity:
    """Fingerprint the fast tokenizer in `folder`.

    Raises:
        NoTokenizer: there is none, or it cannot be read.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise NoTokenizer(
            f"{folder} has no {TOKENIZER_FILE}; save a fast tokenizer there: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    try:
        canonical = Tokenizer.from_file(str(path)).to_str()
    except Exception as error:  # the tokenizers library raises bare Exception
        raise NoTokenizer(f"{path} is not a tokenizer that the tokenizers library reads: {error}") from error
    document = json.loads(canonical)
    model = dict(document["model"])
    texts = {
        "vocabulary": model.pop("vocab", None),
        "merges": model.pop("merges", None),
        "model": model,
        "added_tokens": document.get("added_tokens"),
        "normalizer": document.get("normalizer"),
        "pre_tokenizer": document.get("pre_tokenizer"),
        "decoder": document.get("decoder"),
    }
    parts = {name: _fingerprint(_without_cosmetics(part)) for name, part in texts.items()}
    added = {token["content"]: int(token["id"]) for token in document.get("added_tokens") or ()}
    return TokenizerIdentity(_fingerprint(parts), MappingProxyType(parts), MappingProxyType(added))


def _without_cosmetics(part: Any) -> Any:
    """Drop settings that change neither ids nor text, down to the pipeline's steps."""
    if isinstance(part, dict) and "type" in part:
        return {key: _without_cosmetics(value) for key, value in part.items() if key not in _COSMETIC_KEYS}
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return [_without_cosmetics(step) for step in part]
    return part


def _fingerprint(part: Any) -> str:
    canonical = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
