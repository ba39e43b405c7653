"""The metrics of all three processes, scraped over HTTP: they follow from what clients got, and the docs list them."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from prometheus_client import Metric

import drafter_service.__main__
import verifier_service.__main__
from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.rpc.v1 import generation_service_pb2 as wire
from sybil_engine.rpc.v1 import types_pb2
from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceStub
from sybil_engine.serving.metrics import PREFIX, StateCollector, serving_metrics
from tests.contract.services import running
from tests.scrape import Scrape, free_ports, scraped

if TYPE_CHECKING:
    from sybil_engine.rpc.v1.generation_service_pb2_grpc import GenerationServiceAsyncStub

TABLE = Path(__file__).parents[2] / "docs" / "metrics.md"
PROCESSES = ("coordinator", "verifier", "drafter")
# Twice the same prompt of a page: the second one is found.
PROMPT = tuple(range(5, 75))
WAYS = (
    types_pb2.SPECULATION_LOCKSTEP,
    types_pb2.SPECULATION_PIPELINED,
    types_pb2.SPECULATION_AUTO,
    types_pb2.SPECULATION_OFF,
)
TOKENS = 24


Scrapes = Mapping[str, Scrape]


@dataclass
class Story:
    """What a client did, and what the processes said about it.

    Attributes:
        completions: the last message of each completed request.
        received: tokens of all of them.
        after, during, end: scrapes after the completions, while one more request runs, and after that was cancelled.
    """

    drafter: str
    completions: list[wire.Completion] = field(default_factory=list)
    received: int = 0
    after: Scrapes = field(default_factory=dict)
    during: Scrapes = field(default_factory=dict)
    end: Scrapes = field(default_factory=dict)

    def total(self, name: str) -> int:
        """The sum of a figure of the completions' usage."""
        return sum(getattr(each.usage, name) for each in self.completions)


async def all_scraped(ports: Iterable[int]) -> Scrapes:
    return {process: await asyncio.to_thread(scraped, port) for process, port in zip(PROCESSES, ports, strict=True)}


async def scraped_once(ports: Iterable[int], holds: Callable[[Scrapes], bool]) -> Scrapes:
    """The first scrapes for which something holds."""
    async with asyncio.timeout(10):
        while not holds(now := await all_scraped(ports)):
            pass
    return now


def running_sessions(now: Scrapes) -> list[float]:
    return [now[process]["num_sessions_running"] for process in ("verifier", "drafter")]


@asynccontextmanager
async def stack(ports: list[int], metrics_ports: list[int]) -> AsyncIterator["GenerationServiceAsyncStub"]:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with AsyncExitStack() as services:
        for serve, port, metrics_port in zip(
            (verifier_service.__main__.serve, drafter_service.__main__.serve), ports[1:], metrics_ports[1:], strict=True
        ):
            arguments = ("--port", str(port), "--metrics-port", str(metrics_port))
            await services.enter_async_context(running(serve, *arguments))
        settings = CoordinatorSettings(port=ports[0], metrics_port=metrics_ports[0])
        table = RoutingTable(verifiers=(addresses[1],), drafters=(addresses[2],))
        await services.enter_async_context(running_coordinator(settings, table, lambda what: None))
        channel = await services.enter_async_context(grpc.aio.insecure_channel(addresses[0]))
        yield GenerationServiceStub(channel)


def request(speculation: types_pb2.Speculation.ValueType, tokens: int = TOKENS) -> wire.GenerateRequest:
    return wire.GenerateRequest(
        token_ids=wire.TokenIds(ids=PROMPT),
        max_tokens=tokens,
        seed=7,
        speculation=speculation,
        ignore_end_tokens=True,
    )


async def lived(story: Story, stub: "GenerationServiceAsyncStub", metrics_ports: list[int]) -> None:
    for way in WAYS:
        async for response in stub.Generate(request(way)):
            story.received += len(response.tokens)
            if response.HasField("completion"):
                story.completions.append(response.completion)
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(aiter(stub.Generate(request(types_pb2.SPECULATION_OFF, tokens=10**6))))
    story.after = await all_scraped(metrics_ports)
    call = stub.Generate(request(types_pb2.SPECULATION_PIPELINED, tokens=400))
    await anext(aiter(call))
    story.during = await scraped_once(metrics_ports, lambda now: all(running_sessions(now)))
    call.cancel()
    story.end = await scraped_once(
        metrics_ports,
        lambda now: now["coordinator"]["request_cancellations_total"] > 0 and not any(running_sessions(now)),
    )


@pytest.fixture(scope="module")
def story() -> Story:
    ports = free_ports(6)
    story = Story(f"127.0.0.1:{ports[2]}")

    async def live() -> None:
        async with stack(ports[:3], ports[3:]) as stub:
            await lived(story, stub, ports[3:])

    asyncio.run(live())
    return story


def test_every_token_that_was_committed_was_received(story: Story) -> None:
    assert story.received == len(WAYS) * TOKENS
    assert story.after["verifier"]["committed_tokens_total"] == story.received
    assert story.after["coordinator"]["generation_tokens_total"] == story.received
    assert story.after["coordinator"]["prompt_tokens_total"] == len(WAYS) * len(PROMPT)


def test_what_was_accepted_is_the_same_by_position_by_drafter_and_in_usage(story: Story) -> None:
    verifier, coordinator = story.after["verifier"], story.after["coordinator"]
    accepted, tested = story.total("accepted_tokens"), story.total("tested_tokens")
    assert accepted > 0
    assert verifier["spec_decode_num_accepted_tokens_total"] == accepted
    assert verifier["spec_decode_num_accepted_tokens_per_pos_total"] == accepted
    # The draft model's count for its service's address, those of proposers for their names.
    assert coordinator["accepted_tokens_total"] == verifier["drafter_accepted_tokens_total"] == accepted
    by_model = verifier.value("drafter_accepted_tokens_total", drafter="model")
    assert coordinator.value("accepted_tokens_total", drafter=story.drafter) == by_model > 0
    assert verifier["spec_decode_num_tested_tokens_per_pos_total"] == tested
    assert coordinator["tested_tokens_total"] == tested
    assert coordinator["drafted_tokens_total"] >= tested


def test_every_pass_of_a_session_has_a_window(story: Story) -> None:
    verifier, passes = story.after["verifier"], story.total("verify_passes")
    assert verifier["session_passes_total"] == verifier["window_tokens_count"] == passes
    assert verifier["window_tokens_sum"] == verifier["spec_decode_num_draft_tokens_total"]
    assert verifier["spec_decode_num_drafts_total"] == passes - verifier.value("window_tokens_bucket", le="0.0")
    assert verifier.value("session_passes_total", requested="off", speculation="off") == TOKENS
    # One session at a time: each of its passes is a pass.
    assert verifier["pass_seconds_count"] == verifier["pass_rows_count"] == passes
    assert story.after["drafter"]["pass_seconds_count"] > 0


def test_latencies_add_up_to_the_times_of_the_requests(story: Story) -> None:
    coordinator = story.after["coordinator"]
    assert coordinator["time_to_first_token_seconds_count"] == coordinator["request_queue_time_seconds_count"] == 4
    total_s = coordinator["time_to_first_token_seconds_sum"] + coordinator["inter_token_latency_seconds_sum"]
    assert total_s == pytest.approx(story.total("total_ns") / 1e9)
    assert coordinator["time_to_first_token_seconds_sum"] == pytest.approx(
        story.total("time_to_first_token_ns") / 1e9, abs=0.01
    )
    assert coordinator["verify_seconds_total"] == pytest.approx(story.total("verify_ns") / 1e9)
    assert coordinator["overlap_seconds_total"] == pytest.approx(story.total("overlap_ns") / 1e9)


def test_requests_are_counted_by_how_they_ended(story: Story) -> None:
    coordinator = story.end["coordinator"]
    assert coordinator.value("request_success_total", finished_reason="length") == len(WAYS)
    assert coordinator["request_failures_total"] == 1
    assert story.after["coordinator"]["request_cancellations_total"] == 0
    assert coordinator["request_cancellations_total"] == 1


def test_sessions_and_pages_are_counted_while_they_are_used_and_free_afterwards(story: Story) -> None:
    for process in ("verifier", "drafter"):
        during, end = story.during[process], story.end[process]
        assert during["num_sessions_running"] == 1
        assert during["kv_cache_pages_used"] >= 2
        assert during["kv_cache_usage_perc"] > 0
        assert end["kv_cache_pages_used"] == end["num_sessions_waiting"] == end["num_preemptions_total"] == 0
        assert end["kv_cache_pages_free"] == during["kv_cache_pages_used"] + during["kv_cache_pages_free"]
    assert story.during["coordinator"]["num_requests_running"] == 1
    assert story.end["coordinator"]["num_requests_running"] == 0


def test_a_prefix_that_was_found_is_a_hit(story: Story) -> None:
    verifier, cached = story.after["verifier"], story.total("cached_prompt_tokens")
    assert verifier["prefix_cache_hits_total"] == cached == (len(WAYS) - 1) * 64
    assert verifier["prefix_cache_queries_total"] == len(WAYS) * (len(PROMPT) - 1)


def test_drafters_are_live_and_useless_blocks_have_a_cause(story: Story) -> None:
    assert story.after["coordinator"].value("service_live", service="drafter", address=story.drafter) == 1
    assert story.after["coordinator"].value("service_live", service="verifier") == 1
    assert story.during["coordinator"].value("service_sessions", service="drafter") == 1
    verifier = story.end["verifier"]
    assert 0 <= verifier["discarded_blocks_total"] < verifier["received_blocks_total"]
    assert verifier["round_trip_seconds_count"] > 0
    assert 0 < verifier["draft_wait_seconds_total"] < story.total("total_ns") / 1e9 + 60


def test_auto_says_what_it_chose_and_by_which_figures(story: Story) -> None:
    verifier = story.after["verifier"]
    for shared in ("true", "false"):
        assert verifier.value("auto_choice", shares_processor=shared, sessions="1") == 1
        speeds = {
            sample.labels["speculation"]: sample.value
            for sample in verifier.families[PREFIX + "auto_relative_speed"].samples
            if (sample.labels["shares_processor"], sample.labels["sessions"]) == (shared, "1")
        }
        fastest = max(speeds, key=speeds.__getitem__)
        assert verifier.value("auto_choice", shares_processor=shared, sessions="1", speculation=fastest) == 1
        assert speeds[fastest] == 1
    assert verifier["auto_sessions"] == 1
    assert verifier.value("session_passes_total", requested="auto") == story.completions[2].usage.verify_passes


def test_the_table_in_the_docs_lists_every_metric_and_no_other(story: Story) -> None:
    served = {
        (process, _queried(family)): (family.type, _labels(family))
        for process in PROCESSES
        for family in story.end[process].families.values()
        if family.name.startswith(PREFIX)
    }
    documented = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith(f"| `{PREFIX}"):
            name, kind, labels, processes, counts, _ = (cell.strip() for cell in line[1:-1].split("|"))
            assert counts
            for process in processes.split(", "):
                documented[process, name.strip("`")] = kind, set(re.findall(r"`(\w+)`", labels))
    assert served.keys() == documented.keys()
    for key, (kind, own_labels) in served.items():
        assert documented[key][0] == kind
        # What has not happened yet has no series, and shows no labels.
        assert own_labels in (None, documented[key][1]), key


def _queried(family: Metric) -> str:
    """A metric's name in a query; a histogram's without its end."""
    return family.name + "_total" if family.type == "counter" else family.name


def _labels(family: Metric) -> set[str] | None:
    """The labels of its own; None if it has no series."""
    if not family.samples:
        return None
    return {label for sample in family.samples for label in sample.labels} - {"le", "model_name"}


def test_every_series_names_the_model(story: Story) -> None:
    for process, model in (("coordinator", "target"), ("verifier", "target"), ("drafter", "draft")):
        for family in story.end[process].families.values():
            if family.name.startswith(PREFIX):
                assert {sample.labels["model_name"] for sample in family.samples} <= {f"embedded-{model}"}


def test_a_port_that_is_taken_is_refused_in_a_sentence() -> None:
    nothing = StateCollector(tuple, dict)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(InvalidSettings, match=f"cannot serve metrics on 127.0.0.1:{port}: .*--metrics-port"),
            serving_metrics("127.0.0.1", port, nothing),
        ):
            pass
