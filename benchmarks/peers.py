"""`transformers` on the measured pair: with its defaults, and with the best setting that a search finds."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.arms import BenchTask
from benchmarks.measurement import Measurement, median_speed
from sybil_engine.core.types import SamplingParams

TUNED = "-tuned"
_SEARCHED_TOKENS = 48
# What is each peer's own; the first is its default, or, for lookup, what transformers' documentation has.
_OWN: dict[str, list[dict[str, Any]]] = {
    "transformers-assisted": [{"assisted": True, "assistant_tokens": tokens} for tokens in (None, 3, 5, 8)],
    "transformers-lookup": [{"lookup_tokens": tokens} for tokens in (10, 3, 5)],
}


@dataclass(frozen=True, slots=True)
class PeerSetting:
    """How `generate()` is called.

    Attributes:
        threads: processor threads of a pass.
        assistant_tokens: how many tokens the assistant drafts each time; None: transformers' own rule.
        lookup_tokens: how many tokens are copied from the prompt; 0: none.
    """

    dtype: str
    threads: int
    assisted: bool = False
    assistant_tokens: int | None = None
    lookup_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A search's outcome.

    Attributes:
        searched: every setting that was tried, with its tokens per second.
    """

    default: PeerSetting
    best: PeerSetting
    searched: tuple[tuple[PeerSetting, float], ...]

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "default": asdict(self.default),
            "best": asdict(self.best),
            "searched": [{"setting": asdict(setting), "tokens_per_second": speed} for setting, speed in self.searched],
        }


class PeerModels:
    """The pair as `transformers` loads it, once for each dtype."""

    def __init__(self, target: Path, draft: Path | None, device: str) -> None:
        self._folders = {"target": target} | ({"draft": draft} if draft else {})
        self.device = device
        self.model = cache(self._load)

    def _load(self, role: str, dtype: str) -> Any:
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(self._folders[role], dtype=dtype, use_safetensors=True)
        return model.to(self.device).eval()


@dataclass(frozen=True)
class TransformersArm:
    """`transformers` `generate()`, in this process."""

    name: str
    models: PeerModels
    setting: PeerSetting

    async def complete(self, task: BenchTask, sampling: SamplingParams, max_tokens: int) -> Measurement:
        """Complete one prompt, to the model's own end of text or `max_tokens`."""
        import torch

        target = self.models.model("target", self.setting.dtype)
        options = {"do_sample": not sampling.greedy, "max_new_tokens": max_tokens, **self._options()}
        if not sampling.greedy:
            options |= {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        inputs = torch.tensor([task.prompt], device=self.models.device)
        torch.set_num_threads(self.setting.threads)
        torch.manual_seed(task.seed)
        start = time.perf_counter()
        output = target.generate(inputs, attention_mask=torch.ones_like(inputs), **options)
        # Fetching the tokens waits for a GPU.
        token_ids = tuple(output[0, len(task.prompt) :].tolist())
        return Measurement(token_ids, time.perf_counter() - start)

    def _options(self) -> dict[str, Any]:
        setting = self.setting
        if setting.lookup_tokens:
            return {"prompt_lookup_num_tokens": setting.lookup_tokens}
        if not setting.assisted:
            return {}
        assistant = self.models.model("draft", setting.dtype)
        config = assistant.generation_config
        config.num_assistant_tokens = setting.assistant_tokens
        # With a threshold of 0, transformers goes on drafting even when the assistant is unsure.
        config.assistant_confidence_threshold = None if setting.assistant_tokens is None else 0.0
        config.num_assistant_tokens_schedule = None if setting.assistant_tokens is None else "constant"
        return {"assistant_model": assistant}


@dataclass
class PeerSearch:
    """Finds each peer's best setting: type and threads first, then its own options.

    Attributes:
        dtypes: those that are tried; the first is that of the defaults.
        tasks: what each setting is timed on.
    """

    models: PeerModels
    dtypes: Sequence[str]
    tasks: Sequence[BenchTask]
    sampling: SamplingParams
    max_tokens: int
    progress: Callable[[str], None]
    _plain: Found | None = None

    async def find(self, name: str) -> Found:
        """Search for the best setting of a peer."""
        if self._plain is None:
            cores = os.cpu_count() or 1
            threads = (cores, max(1, cores // 2))
            places = [PeerSetting(dtype, count) for dtype in self.dtypes for count in threads]
            self._plain = await self._search("transformers", places)
        if name not in _OWN:
            return self._plain
        default = replace(self._plain.default, **_OWN[name][0])
        return await self._search(name, [default, *(replace(self._plain.best, **own) for own in _OWN[name])])

    async def _search(self, name: str, settings: Sequence[PeerSetting]) -> Found:
        """Time each setting; the first is the default."""
        searched = []
        settings = list(dict.fromkeys(settings))
        tokens = min(self.max_tokens, _SEARCHED_TOKENS)
        for number, setting in enumerate(settings, start=1):
            self.progress(f"searching for the best setting of {name}, {number} of {len(settings)}")
            arm = TransformersArm(name, self.models, setting)
            # The first completion warms up.
            timed = [await arm.complete(task, self.sampling, tokens) for task in (self.tasks[0], *self.tasks)]
            searched.append((setting, median_speed(timed[1:])))
        best, _ = max(searched, key=lambda pair: pair[1])
        return Found(settings[0], best, tuple(searched))
