"""The target's tokenizer: text to token ids, and token ids back to text one by one."""

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import tokenizers
from tokenizers.decoders import DecodeStream

from sybil_engine.core.errors import NoTokenizer

# A new token's text may depend on this many tokens before it: a character has at most 4 bytes.
_CONTEXT_TOKENS = 8
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


Detokenizer = Callable[[int], str]
"""Takes a session's next token. Returns the text that is certain now; half a character waits for its other half."""


class Tokenizer:
    """Encodes prompts as the model's own tokenizer does, with its begin token if it adds one.

    Attributes:
        longest_token: length of the vocabulary's longest entry, in characters; no token's text is longer.
    """

    def __init__(self, tokenizer_json: bytes) -> None:
        """
        Raises:
            NoTokenizer: this is not a tokenizer.json.
        """
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:
            raise NoTokenizer(f"the verifier sent a tokenizer that cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.longest_token = max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)), default=1)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._spelling = _Spelling.of(json.loads(tokenizer_json).get("decoder"))
        self._bytes_by_id: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        """Token ids are smaller than this."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return tuple(self._tokenizer.encode(text).ids)

    def detokenizer(self, prompt: Sequence[int]) -> Detokenizer:
        """A detokenizer for the tokens after a prompt."""
        if self._spelling is None:
            # Its tokens have no fixed bytes: the library decodes them in context.
            stream = DecodeStream(ids=list(prompt[-_CONTEXT_TOKENS:]), skip_special_tokens=True)
            return lambda token_id: stream.step(self._tokenizer, token_id) or ""
        at_start = all(token_id in self._special_ids for token_id in prompt)
        strips_first_space = at_start and self._spelling.strips_first_space
        return _ByteStream(self.bytes_of, prompt, strips_first_space).push

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a special or unknown one."""
        if token_id not in self._bytes_by_id:
            token = None if token_id in self._special_ids else self._tokenizer.id_to_token(token_id)
            self._bytes_by_id[token_id] = self._spelling.bytes_of(token) if token and self._spelling else b""
        return self._bytes_by_id[token_id]


class _ByteStream:
    """Joins bytes to characters. Bytes that cannot become a character become U+FFFD as soon as that is certain."""

    def __init__(self, bytes_of: Callable[[int], bytes], prompt: Sequence[int], strips_first_space: bool) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips_space = strips_first_space
        # A prompt of token ids may end within a character.
        for token_id in prompt[-_CONTEXT_TOKENS:]:
            self._decoder.decode(bytes_of(token_id))

    def push(self, token_id: int) -> str:
        text = self._decoder.decode(self._bytes_of(token_id))
        if self._strips_space and text:
            self._strips_space = False
            return text.removeprefix(" ")
        return text


@dataclass(frozen=True, slots=True)
class _Spelling:
    """How a tokenizer spells bytes in its tokens, and whether it adds a space in front of a text."""

    bytes_of: Callable[[str], bytes]
    strips_first_space: bool

    @classmethod
    def of(cls, decoder: Mapping[str, Any] | None) -> Self | None:
        """Read the decoder part of a tokenizer.json; None if it does more than spell bytes."""
        steps = [] if decoder is None else decoder.get("decoders", [decoder])
        kinds = {step["type"] for step in steps}
        if "ByteLevel" in kinds:
            return cls(_byte_level, strips_first_space=False)
        if not steps or not kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
            return None
        return cls(
            _with_byte_tokens if "ByteFallback" in kinds else _with_spaces,
            strips_first_space=any(
                step.get("start", 0) > 0 or step.get("prepend_scheme", "never") != "never" for step in steps
            ),
        )


def _byte_level(token: str) -> bytes:
    """Each character of the byte-level alphabet stands for one byte; an added token stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def _with_spaces(token: str) -> bytes:
    return token.replace("\u2581", " ").encode()


def _with_byte_tokens(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(byte[1]) if byte else _with_spaces(token)


def _byte_level_alphabet() -> dict[str, int]:
    """Printable bytes stand for themselves, the others for characters from U+0100 on. Source: Radford et al. 2019."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()
