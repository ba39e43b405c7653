"""Loads `transformers` on the pair that is measured."""

from pathlib import Path
from typing import Any

from benchmarks.arms import TransformersArm

_LOOKUP_TOKENS = 10  # the value that transformers' own documentation uses


def load_peers(names: tuple[str, ...], target: Path, draft: Path, dtype: str) -> list[TransformersArm]:
    """Load the models once and make an arm of each name."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def model(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True).eval()

    target_model = model(target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    options: dict[str, dict[str, Any]] = {"transformers": {}}
    if "transformers-assisted" in names:
        options["transformers-assisted"] = {"assistant_model": model(draft)}
    options["transformers-lookup"] = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS, "tokenizer": tokenizer}
    return [TransformersArm(name, target_model, options[name]) for name in names]
