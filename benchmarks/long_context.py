"""`python -m benchmarks.long_context`: a model with a long context starts with a small KV cache, and serves.

The model is random, of the shape of Llama 3.1 8B with 2 layers and the embedded pair's vocabulary, with a context of
131,072 tokens: cells for all of it would take 2 GB.
"""

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.prompts import read_prompts
from benchmarks.stack import running_stack
from coordinator.tokenizer import Tokenizer
from sybil_engine.client import connected
from sybil_engine.core.completion import Completion
from sybil_engine.core.references import EMBEDDED_TARGET
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import Speculation
from sybil_engine.models.finding import find_folder
from sybil_engine.models.loading import tokenizer_json

CONTEXT_TOKENS = 131_072


def make_model(folder: Path, layers: int) -> None:
    """Write the model, with the embedded pair's tokenizer."""
    embedded = find_folder(EMBEDDED_TARGET)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=LlamaConfig.from_pretrained(embedded).vocab_size,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        bos_token_id=None,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    for weights in model.parameters():
        weights.data = weights.data.to(torch.bfloat16)
    model.save_pretrained(folder)
    for file in embedded.glob("tokenizer*"):
        shutil.copy(file, folder)


async def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Start the model and serve the prompt; returns the exit status."""
    text = "\n".join(prompt.prompt for prompt in read_prompts("", 100))
    prompt = Tokenizer(tokenizer_json(EMBEDDED_TARGET)).encode(text)[: arguments.prompt_tokens]
    flags = ("--model", str(folder), "--cache-memory", arguments.cache_memory)
    start_s = time.perf_counter()
    async with running_stack(flags, None) as stack, connected(stack.coordinator.address) as client:
        print(f"started in {time.perf_counter() - start_s:.0f} s; {stack.verifier.memory_mib:.0f} MiB", flush=True)
        context_tokens = (await client.describe()).target.context_tokens
        start_s = time.perf_counter()
        request = GenerationRequest(prompt, max_tokens=8, ignore_end_tokens=True, speculation=Speculation.OFF)
        completion = Completion.joined([delta async for delta in client.generate(request)])
        print(
            f"context {context_tokens}; a prompt of {len(prompt)} tokens and {len(completion.token_ids)} new ones took "
            f"{time.perf_counter() - start_s:.1f} s; {stack.verifier.memory_mib:.0f} MiB"
        )
    return 0 if context_tokens == CONTEXT_TOKENS and len(completion.token_ids) == 8 else 1


def main(argv: Sequence[str]) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_context", description=description)
    parser.add_argument("--cache-memory", default="256M")
    parser.add_argument("--prompt-tokens", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=2)
    arguments = parser.parse_args(argv)
    if arguments.layers < 1 or arguments.prompt_tokens < 1:
        parser.error("--layers and --prompt-tokens must be at least 1")
    with TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.layers)
        return asyncio.run(run(arguments, Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
