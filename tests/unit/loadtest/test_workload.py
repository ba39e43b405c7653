"""What is asked: the same in every arm, as long as was asked for, and nothing that is cached from before."""

from collections import Counter
from pathlib import Path

import pytest

from loadtest.lengths import ByCharacters, ByTokenizer
from loadtest.workload import FILE_PROMPT_EXAMPLE, KINDS, FilePrompt, Workload
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.models.finding import find_tokenizer
from sybil_engine.models.tokenizer import TOKENIZER_FILE
from sybil_engine.prompts import read_prompt_lines

TOKENIZER = ByTokenizer(str(find_tokenizer("embedded-target") / TOKENIZER_FILE))


def test_a_number_always_gives_the_same_request() -> None:
    workload = Workload(("chat", "code", "document"), seed=3)
    assert workload.request("a", 5) == workload.request("a", 5)
    assert len({str(workload.request(stage, index).prompt) for stage in "ab" for index in range(20)}) == 40


def test_an_arms_own_head_changes_the_beginning_of_the_prompt_and_nothing_else() -> None:
    workload = Workload(("code",))
    shared, one, other = (workload.request("a", 5, head) for head in ("", "off", "auto"))
    assert str(one.prompt)[:7] != str(other.prompt)[:7]
    assert str(one.prompt)[8:] == str(other.prompt)[8:]
    assert str(one.prompt)[8:] in str(shared.prompt)
    assert (one.seed, one.max_tokens) == (other.seed, other.max_tokens) == (shared.seed, shared.max_tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 16, 150])
def test_with_the_servers_tokenizer_prompts_are_as_long_as_asked(kind: str, tokens: int) -> None:
    workload = Workload((kind,), prompt_tokens=(tokens, tokens), max_tokens=(96, 96), lengths=TOKENIZER)
    for index in range(40):
        request = workload.request("a", index, "off")
        assert (len(request.prompt), request.max_tokens) == (tokens, 96)


def test_without_it_they_are_as_long_in_characters() -> None:
    workload = Workload(("code",), prompt_tokens=(100, 100), lengths=ByCharacters({"code": 3.5}))
    assert len(workload.request("a", 0).prompt) == 350


def test_lengths_are_drawn_from_the_whole_range() -> None:
    workload = Workload(("code",), prompt_tokens=(3, 5), max_tokens=(7, 8), lengths=TOKENIZER)
    requests = [workload.request("a", index) for index in range(60)]
    assert {len(request.prompt) for request in requests} == {3, 4, 5}
    assert {request.max_tokens for request in requests} == {7, 8}


def test_a_share_of_the_prompts_begins_with_the_shared_prefix() -> None:
    workload = Workload(
        ("document",), prompt_tokens=(20, 20), shared_prefix_tokens=64, shared_share=0.5, lengths=TOKENIZER
    )
    prompts = [workload.request(str(index % 3), index, "off").prompt for index in range(200)]
    long = Counter(tuple(prompt[:64]) for prompt in prompts if len(prompt) == 84)
    assert len(long) == 1
    assert 70 < long.total() < 130
    assert all(len(prompt) == 20 for prompt in prompts if len(prompt) != 84)


def test_a_files_lines_are_sent_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "max_tokens": 5}\n\n{"prompt": "two"}\n')
    workload = Workload((), lines=read_prompt_lines(file, FilePrompt, FILE_PROMPT_EXAMPLE), max_tokens=(9, 9))
    asked = {(request.prompt, request.max_tokens) for request in (workload.request("a", n, "off") for n in range(20))}
    assert asked == {("one", 5), ("two", 9)}


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"text": "x"}', '{"prompt": ""}', '{"prompt": "x", "max_tokens": 0}', '["x"]', '{"prompt": 5}'],
)
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidSettings, match=r"prompts\.jsonl"):
        read_prompt_lines(file, FilePrompt, FILE_PROMPT_EXAMPLE)
