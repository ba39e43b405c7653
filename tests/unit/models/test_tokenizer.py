"""Fingerprints of tokenizers name what differs, and ignore what does not matter."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers

from sybil_engine.core.errors import NoTokenizer
from sybil_engine.models.tokenizer import TokenizerIdentity, identify
from tests.unit.models.random_models import byte_tokenizer


def identity_of(tokenizer: Tokenizer, folder: Path) -> TokenizerIdentity:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return identify(folder)


def test_the_same_tokenizer_has_the_same_fingerprint(tmp_path: Path) -> None:
    one, other = identity_of(byte_tokenizer(), tmp_path / "one"), identity_of(byte_tokenizer(), tmp_path / "other")
    assert one == other


def test_padding_and_truncation_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    padded = byte_tokenizer()
    padded.enable_padding(length=8)
    padded.enable_truncation(4)
    one, other = identity_of(byte_tokenizer(), tmp_path / "one"), identity_of(padded, tmp_path / "other")
    assert one.fingerprint == other.fingerprint


def test_a_differing_part_is_named(tmp_path: Path) -> None:
    base = identity_of(byte_tokenizer(), tmp_path / "base")
    lowercasing = byte_tokenizer()
    lowercasing.normalizer = normalizers.Lowercase()
    marked = byte_tokenizer()
    marked.add_special_tokens(["<|mark|>"])
    larger = byte_tokenizer(c=4)
    for name, tokenizer in {"normalizer": lowercasing, "added_tokens": marked, "vocabulary": larger}.items():
        other = identity_of(tokenizer, tmp_path / name)
        assert base.parts[name] != other.parts[name]
        assert base.fingerprint != other.fingerprint


def test_merges_written_as_text_or_as_pairs_are_the_same(tmp_path: Path) -> None:
    pairs = identity_of(byte_tokenizer(), tmp_path / "pairs")
    document = json.loads((tmp_path / "pairs" / "tokenizer.json").read_text())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "tokenizer.json").write_text(json.dumps(document))
    assert identify(tmp_path / "text") == pairs


def test_a_folder_without_a_fast_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NoTokenizer, match="save_pretrained"):
        identify(tmp_path)


def test_a_broken_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(NoTokenizer, match=r"tokenizer\.json"):
        identify(tmp_path)
