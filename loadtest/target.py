"""Asks a server, before any load, what it serves and how long its tokens are."""

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from loadtest.lengths import ByCharacters, ByTokenizer
from loadtest.texts import text_of
from loadtest.workload import Workload
from sybil_engine.client import GenerationClient, Served, connected
from sybil_engine.core.errors import InvalidSettings, ModelError
from sybil_engine.core.references import EMBEDDED_TARGET
from sybil_engine.core.request import GenerationRequest
from sybil_engine.core.types import ModelDescription, Speculation
from sybil_engine.models.finding import find_tokenizer
from sybil_engine.models.tokenizer import TOKENIZER_FILE, identify
from sybil_engine.serving.channels import CHANNEL_OPTIONS

_SERVICE = "sybil_engine.rpc.v1.GenerationService"
_TIMEOUT_S = 10.0
_SAMPLE_CHARACTERS = 1000
_SAMPLES = 8


async def served_at(address: str) -> Served:
    """The models at an address.

    Raises:
        InvalidSettings: nobody answers there, or something else than a coordinator does.
        SybilError: it is not ready.
    """
    services = await _services(address)
    if _SERVICE not in services:
        others = ", ".join(name for name in services if not name.startswith("grpc.")) or "nothing of this engine"
        raise InvalidSettings(f"{address} serves {others}, not {_SERVICE}; name a coordinator's address with --address")
    async with connected(address) as client:
        return await client.describe()


async def fitted(workload: Workload, address: str, served: Served) -> Workload:
    """The workload with prompts of the right length for the server's tokenizer.

    Raises:
        InvalidSettings: its longest request does not fit the context.
    """
    most, context = workload.most_tokens, served.target.context_tokens
    if context and most > context:
        raise InvalidSettings(
            f"prompts and completions of up to {most} tokens do not fit the context of {context}; "
            "ask for less with --prompt-tokens, --max-tokens or --shared-prefix"
        )
    if workload.lines:
        return workload
    if file := await asyncio.to_thread(_own_tokenizer, served.target):
        return replace(workload, lengths=ByTokenizer(str(file)))
    async with connected(address) as client:
        return replace(
            workload, lengths=ByCharacters({kind: await _characters_per_token(client, kind) for kind in workload.kinds})
        )


def _own_tokenizer(target: ModelDescription) -> Path | None:
    """This machine's copy of the server's tokenizer, if it has one; nothing is fetched."""
    if target.model_id != EMBEDDED_TARGET and not Path(target.model_id).expanduser().is_dir():
        return None
    try:
        folder = find_tokenizer(target.model_id)
        same = identify(folder).fingerprint == target.tokenizer_fingerprint
    except ModelError:
        return None
    return folder / TOKENIZER_FILE if same else None


async def _services(address: str) -> list[str]:
    """Full names of the services at an address, by gRPC reflection."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        try:
            call = stub.ServerReflectionInfo(iter([asked]), timeout=_TIMEOUT_S)
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            raise InvalidSettings(_words(error.code(), address)) from error
    return [service.name for service in answer.list_services_response.service]


def _words(code: grpc.StatusCode, address: str) -> str:
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return (
            f"nobody answers at {address} ({code.name}); start a stack with `sybil up`, or name another with --address"
        )
    # INTERNAL, at times, when a server without reflection answers before the question is written.
    return f"the server at {address} does not say what it serves by gRPC reflection ({code.name}); is it a coordinator?"


async def _characters_per_token(client: GenerationClient, kind: str) -> float:
    """How long a token of this kind's text is for the server, by the prompt tokens it reports."""
    characters = tokens = 0
    for number in range(_SAMPLES):
        text = text_of(kind, _SAMPLE_CHARACTERS, Random(number))
        request = GenerationRequest(text, max_tokens=1, speculation=Speculation.OFF)
        endings = [delta.ending async for delta in client.generate(request) if delta.ending]
        characters, tokens = characters + len(text), tokens + endings[-1].usage.prompt_tokens
    return characters / tokens
