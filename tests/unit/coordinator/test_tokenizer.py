"""Text comes out as the library's full decode has it, token by token, and never half a character."""

import json
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from coordinator.tokenizer import Tokenizer
from sybil_engine.core.errors import NoTokenizer

CORPUS = ["def f(x):\n    return x", "größer €uro 漢字 🙂🙃", "naïve café «quotes»", "the quick brown fox"] * 4


@cache
def byte_level() -> LibraryTokenizer:
    tokenizer = LibraryTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<added é>", normalized=False)])
    return tokenizer


@cache
def sentencepiece_like() -> LibraryTokenizer:
    """As Llama 2 has it: spaces are U+2581, unknown characters fall back to byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdeé"]
    tokenizer = LibraryTokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


@cache
def metaspace() -> LibraryTokenizer:
    pieces = ["<unk>", "\u2581", *"abcdeé"]
    tokenizer = LibraryTokenizer(
        models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


@cache
def word_pieces() -> LibraryTokenizer:
    pieces = ["[UNK]", "play", "##ing", "##s", "a", "b"]
    tokenizer = LibraryTokenizer(
        models.WordPiece(vocab={piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def ours(library: LibraryTokenizer) -> Tokenizer:
    return Tokenizer(library.to_str().encode())


def streamed(tokenizer: Tokenizer, prompt: Sequence[int], token_ids: Sequence[int]) -> list[str]:
    detokenizer = tokenizer.detokenizer(prompt)
    return [detokenizer(token_id) for token_id in token_ids]


@given(st.binary(max_size=40))
def test_byte_level_text_equals_the_full_decode_for_arbitrary_bytes(data: bytes) -> None:
    library = byte_level()
    token_ids = [token_of(byte) for byte in data]
    text = "".join(streamed(ours_byte_level(), (), token_ids))
    whole = library.decode(token_ids)
    assert whole == data.decode("utf-8", "replace")
    # What is missing could be the start of a character as far as its length goes.
    assert whole in (text, text + "\ufffd", text + 2 * "\ufffd")


@given(st.text(max_size=10), st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), st.data())
def test_half_a_character_at_the_end_is_not_shown(text: str, last: str, data: st.DataObject) -> None:
    half = last.encode()[: data.draw(st.integers(1, len(last.encode()) - 1))]
    token_ids = [token_of(byte) for byte in text.encode() + half]
    assert "".join(streamed(ours_byte_level(), (), token_ids)) == text


@given(st.lists(st.integers(0, 400), max_size=40))
def test_byte_level_text_equals_the_full_decode_for_arbitrary_tokens(token_ids: list[int]) -> None:
    library = byte_level()
    text = "".join(streamed(ours_byte_level(), (), token_ids))
    assert library.decode(token_ids) in (text, text + "\ufffd", text + 2 * "\ufffd")


@given(st.text(max_size=20), st.text(max_size=20))
def test_byte_level_text_follows_the_prompt_wherever_it_is_cut(prompt: str, completion: str) -> None:
    library = byte_level()
    token_ids = library.encode(prompt + completion).ids
    for cut in range(len(token_ids) + 1):
        before = library.decode(token_ids[:cut])
        text = "".join(streamed(ours_byte_level(), token_ids[:cut], token_ids[cut:]))
        # A character that the prompt began comes whole with the completion.
        assert before.rstrip("\ufffd") + text == prompt + completion or "\ufffd" in prompt + completion


@given(st.text("abcde é🙂漢\u2581", max_size=30))
def test_no_piece_of_text_holds_half_a_character(text: str) -> None:
    tokenizer = ours_byte_level()
    pieces = streamed(tokenizer, (), tokenizer.encode(text))
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == text


@pytest.mark.parametrize("library", [sentencepiece_like, metaspace])
@given(data=st.data())
def test_leading_spaces_come_out_as_in_the_full_decode(
    library: Callable[[], LibraryTokenizer], data: st.DataObject
) -> None:
    alphabet = "abcde é" if library is metaspace else "abcde é🙂漢"
    text = data.draw(st.text(alphabet, min_size=1, max_size=20))
    cut = data.draw(st.integers(0, 30))
    token_ids = library().encode(text).ids
    cut = min(cut, len(token_ids))
    whole, before = library().decode(token_ids), library().decode(token_ids[:cut])
    # Within a character the library shows one U+FFFD for each byte of the whole run.
    assume("\ufffd" not in before)
    assert before + "".join(streamed(ours(library()), token_ids[:cut], token_ids[cut:])) == whole


def test_a_decoder_that_does_more_than_spell_bytes_is_the_librarys() -> None:
    library = word_pieces()
    token_ids = library.encode("playing plays a b").ids
    assert "".join(streamed(ours(library), (), token_ids)) == library.decode(token_ids) == "playing plays a b"


def test_special_tokens_are_not_in_the_text_and_added_ones_are() -> None:
    tokenizer, library = ours_byte_level(), byte_level()
    end = library.token_to_id("<|end|>")
    assert end is not None
    token_ids = [end, *library.encode("a<added é>b").ids]
    assert "".join(streamed(tokenizer, (), token_ids)) == "a<added é>b"


def test_a_long_run_of_broken_bytes_is_shown_as_it_comes() -> None:
    assert streamed(ours_byte_level(), (), [token_of(0x80)] * 50) == ["\ufffd"] * 50


def test_the_tokenizers_own_begin_token_is_kept_and_none_is_invented() -> None:
    assert ours(sentencepiece_like()).encode("a")[0] == 1
    assert ours_byte_level().encode("a") == tuple(byte_level().encode("a").ids)


def test_truncation_in_the_file_does_not_cut_prompts() -> None:
    spec = json.loads(byte_level().to_str())
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert len(Tokenizer(json.dumps(spec).encode()).encode("a longer prompt")) > 2


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(NoTokenizer):
        Tokenizer(b"{}")


def test_every_token_id_is_below_the_size() -> None:
    assert ours_byte_level().size == byte_level().get_vocab_size(with_added_tokens=True)


@cache
def ours_byte_level() -> Tokenizer:
    return ours(byte_level())


def token_of(byte: int) -> int:
    """The token that stands for one byte, whatever else the tokenizer has merged."""
    token_id = byte_level().token_to_id(_letters()[byte])
    assert token_id is not None
    return token_id


@cache
def _letters() -> list[str]:
    """The byte-level alphabet as the library spells it: the letter of each byte."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    letters = {
        byte: letter
        for code in range(0x800)
        for letter, byte in zip(spell(chr(code))[0][0], chr(code).encode(), strict=True)
    }
    # The bytes that are in no character up to there stand for themselves.
    return [letters.get(byte, chr(byte)) for byte in range(0x100)]
