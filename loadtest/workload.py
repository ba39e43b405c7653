"""What is asked: prompts, lengths and seeds, the same in every arm."""

from dataclasses import dataclass
from random import Random

from pydantic import BaseModel, Field

from loadtest.lengths import ByCharacters, Lengths, PromptContent
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import SamplingParams

Range = tuple[int, int]
_SHARED_SEED = "shared"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of prompt: how long prompts and completions are unless settings say otherwise, least and most."""

    prompt_tokens: Range
    max_tokens: Range


KINDS = {
    "chat": Kind((16, 48), (32, 128)),
    "code": Kind((50, 250), (32, 128)),
    "document": Kind((500, 1500), (64, 128)),
}
_GUESS = ByCharacters(dict.fromkeys(KINDS, 4.0))


class FilePrompt(BaseModel, frozen=True, extra="forbid", strict=True):
    """A line of a file of prompts."""

    prompt: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)


FILE_PROMPT_EXAMPLE = '{"prompt": "text", "max_tokens": 64}'


@dataclass(frozen=True, slots=True)
class Workload:
    """Gives each request its prompt, length and seed, by its number alone.

    Attributes:
        kinds: one of them is drawn for each request.
        lines: prompts of a file, in place of kinds.
        prompt_tokens, max_tokens: least and most, drawn evenly; None: as the kind or the line says.
        shared_prefix_tokens: length of the beginning that some prompts share.
        shared_share: share of the requests whose prompt begins with it.
        lengths: how long a token is for the server.
    """

    kinds: tuple[str, ...]
    lines: tuple[FilePrompt, ...] = ()
    prompt_tokens: Range | None = None
    max_tokens: Range | None = None
    shared_prefix_tokens: int = 0
    shared_share: float = 0.0
    temperature: float = 0.0
    seed: int = 0
    ignore_end: bool = True
    lengths: Lengths = _GUESS

    def request(self, stage: str, index: int, own_head: str = "") -> GenerationRequest:
        """The request of this number.

        Args:
            stage: of another stage, the same number has another prompt.
            own_head: unless empty, prompts of a kind begin with a line of their own that is drawn from it. So the arms
                have the same texts, and none finds cells that another one has left in the server's cache.
        """
        generator = Random(f"{self.seed} {stage} {index}")
        head = f"# {Random(f'{self.seed} {stage} {index} {own_head}').getrandbits(20):05x}\n" if own_head else ""
        prompt, max_tokens = self._line(generator) if self.lines else self._text(head, generator)
        return GenerationRequest(
            prompt=prompt,
            sampling=SamplingParams(temperature=self.temperature),
            seed=generator.getrandbits(32),
            max_tokens=max_tokens,
            ignore_end_tokens=self.ignore_end,
        )

    @property
    def most_tokens(self) -> int:
        """An upper bound of prompt and completion together, as far as it is known; 0 for prompts of a file."""
        if self.lines:
            return 0
        longest = [
            (self.prompt_tokens or KINDS[kind].prompt_tokens)[1] + (self.max_tokens or KINDS[kind].max_tokens)[1]
            for kind in self.kinds
        ]
        return max(longest) + self.shared_prefix_tokens

    def _line(self, generator: Random) -> tuple[str, int | None]:
        line = generator.choice(self.lines)
        drawn = generator.randint(*self.max_tokens) if self.max_tokens else None
        return line.prompt, line.max_tokens if line.max_tokens is not None else drawn

    def _text(self, head: str, generator: Random) -> tuple[PromptContent, int]:
        kind = generator.choice(self.kinds)
        tokens = generator.randint(*(self.prompt_tokens or KINDS[kind].prompt_tokens))
        prompt = self.lengths.cut(kind, head, tokens, generator)
        if generator.random() < self.shared_share:
            prefix = self.lengths.cut(kind, "", self.shared_prefix_tokens, Random(_SHARED_SEED))
            prompt = prefix + prompt  # type: ignore[operator]  # both are text, or both are ids
        return prompt, generator.randint(*(self.max_tokens or KINDS[kind].max_tokens))
