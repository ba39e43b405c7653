"""Records traces: the target completes prompts, then both models are run over each completion."""

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache

from simulator.judging import Task, judge
from simulator.storage import Recording, model_words
from simulator.trace import Trace
from sybil_engine.core.errors import ContextExceeded, InvalidSettings, PairMismatch
from sybil_engine.core.model_choice import ModelChoice
from sybil_engine.core.noise import NoiseTape
from sybil_engine.core.types import SamplingParams
from sybil_engine.models.loading import describe, read_model
from sybil_engine.sampling.draw import draw_tokens
from sybil_engine.sampling.shaping import shape_logits


class Recorder:
    """A pair of models, and what they predict along the target's text.

    Raises:
        InvalidSettings: the draft model's weights are to have another type than float32.
        PairMismatch: their vocabularies differ.
        ModelError: a model cannot be loaded.
    """

    def __init__(self, target: str, draft: ModelChoice) -> None:
        if draft.dtype != "float32":
            raise InvalidSettings(
                f"traces are recorded in float32, and the draft model is to be {draft.dtype}; leave its type out"
            )
        self._target_is, self._draft_is = describe(target), describe(draft.ref, layers=draft.layers)
        if self._target_is.tokenizer_fingerprint != self._draft_is.tokenizer_fingerprint:
            raise PairMismatch(f"{target} and {draft.ref} have different tokenizers; name two models that share one")
        self._target, self._draft = read_model(target), read_model(draft.ref, draft.layers)

    def record(
        self,
        tasks: Sequence[Task],
        temperatures: Sequence[float],
        max_tokens: int,
        say: Callable[[str], None],
    ) -> Recording:
        """Complete every task at every temperature.

        Args:
            max_tokens: of each completion; the target may end it earlier.
            say: called with the progress, in words.

        Raises:
            ContextExceeded: a prompt leaves no room for this many tokens.
        """
        context_tokens = min(self._target_is.context_tokens, self._draft_is.context_tokens)
        for task in tasks:
            if len(task.token_ids) + max_tokens > context_tokens:
                raise ContextExceeded(
                    f"{len(task.token_ids)} tokens of prompt {task.prompt_id} and {max_tokens} more do not fit the "
                    f"context of {context_tokens} tokens; ask for fewer"
                )
        traces = []
        for temperature in temperatures:
            params = SamplingParams(temperature=temperature)
            for number, task in enumerate(tasks):
                say(f"recording {number + 1} of {len(tasks)} at temperature {temperature:g}: {task.prompt_id}")
                traces.append(self._trace(task, params, max_tokens))
        about = {
            "target": model_words(self._target_is.model_id, self._target_is.parameters),
            "draft": model_words(self._draft_is.model_id, self._draft_is.parameters),
            "max_tokens": max_tokens,
            "dtype": "float32",
        }
        return Recording(traces, about)

    @torch.inference_mode()
    def _trace(self, task: Task, params: SamplingParams, max_tokens: int) -> Trace:
        noise = NoiseTape(task.seed, self._target_is.vocabulary_size)
        text = self._complete(task, params, noise, max_tokens)
        start = len(task.token_ids)
        token_ids = torch.tensor([[*task.token_ids, *text]])
        # A token's row predicts the token after it.
        rows = slice(start - 1, start + len(text) - 1)
        target_logits = self._target(token_ids).logits[0, rows].float()
        draft_logits = self._draft(token_ids).logits[0, rows].float()
        return judge(task, params, torch.tensor(text), target_logits, draft_logits)

    def _complete(self, task: Task, params: SamplingParams, noise: NoiseTape, max_tokens: int) -> list[int]:
        """The target's text under its noise."""
        cache = DynamicCache(config=self._target.config)
        fed = torch.tensor([task.token_ids])
        text: list[int] = []
        while len(text) < max_tokens and not (text and text[-1] in self._target_is.end_token_ids):
            logits = self._target(fed, past_key_values=cache, use_cache=True).logits[0, -1:].float()
            position = len(task.token_ids) + len(text)
            shaped = shape_logits(logits, params)
            drawn = draw_tokens(shaped, None if params.greedy else noise.rows(position, 1))
            text.append(int(drawn))
            fed = drawn.unsqueeze(0)
        return text
