"""Pairs of models that the exactness tests share; each is made once."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from sybil_engine.core.pass_times import PassTimes
from sybil_engine.models import attention
from sybil_engine.models.finding import find_folder
from sybil_engine.models.loading import LoadedModel, load
from tests.exactness.engines import LoadedPair, describe_in_memory, perturbed

CONTEXT_TOKENS = 512


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Row classes depend on the number of threads: pin it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def steady_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make passes seem to take 10 ms whatever their rows, so that what is judged does not depend on a busy machine."""
    monkeypatch.setattr(PassTimes, "add", lambda *_: None)


def _as_dtype(model: Any, dtype: torch.dtype) -> PreTrainedModel:
    cast: PreTrainedModel = model.to(dtype)
    return cast


def _random_llama(dtype: torch.dtype, implementation: str) -> PreTrainedModel:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.08,
    )
    config._attn_implementation = implementation
    return _as_dtype(LlamaForCausalLM(config), dtype)


def _random_gpt2(dtype: torch.dtype, implementation: str) -> PreTrainedModel:
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=512, n_embd=128, n_layer=3, n_head=4, n_positions=CONTEXT_TOKENS, initializer_range=0.08
    )
    config._attn_implementation = implementation
    return _as_dtype(GPT2LMHeadModel(config), dtype)


def _in_memory(model: PreTrainedModel) -> LoadedModel:
    return LoadedModel(model.eval().requires_grad_(False), describe_in_memory(model, CONTEXT_TOKENS))


# Those that `transformers` can run as well.
STOCK_PAIRS = ("embedded-float32", "embedded-bfloat16", "llama-float32", "gpt2-float32", "llama-bfloat16")
PAIRS = (*STOCK_PAIRS, "embedded-int8")
_RANDOM = {"llama": _random_llama, "gpt2": _random_gpt2}
_MADE: dict[str, LoadedPair] = {}


@pytest.fixture(scope="session", params=PAIRS)
def pair_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(pair_name: str) -> LoadedPair:
    """The embedded pair, and random ones whose drafter is the target with noise on its weights."""
    if pair_name not in _MADE:
        attention.register()
        kind, dtype = pair_name.split("-")
        if kind == "embedded":
            _MADE[pair_name] = LoadedPair(load("embedded-target", dtype), load("embedded-draft", _draft_dtype(dtype)))
        else:
            target = _RANDOM[kind](getattr(torch, dtype), attention.IMPLEMENTATION)
            draft = perturbed(target, type(target), noise=0.03, seed=3)
            _MADE[pair_name] = LoadedPair(_in_memory(target), _in_memory(draft))
    return _MADE[pair_name]


def _draft_dtype(target_dtype: str) -> str:
    return "int8" if target_dtype == "int8" else "float32"


@pytest.fixture
def reference(pair_name: str) -> PreTrainedModel:
    """The same target, as `transformers` runs it on its own."""
    kind, dtype = pair_name.split("-")
    if kind != "embedded":
        made: PreTrainedModel = _RANDOM[kind](getattr(torch, dtype), "sdpa").eval()
        return made
    folder = find_folder("embedded-target")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), use_safetensors=True)
    evaluated: PreTrainedModel = loaded.eval()
    return evaluated
