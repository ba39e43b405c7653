"""A whole benchmark run, against services without models: it prints and writes what it promises."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import benchmarks.engine
from benchmarks.bench import bench
from benchmarks.plan import Plan
from benchmarks.services import RunningServices, hosted, running_services
from benchmarks.settings import BenchSettings
from coordinator.progress import Report
from coordinator.routing import RoutingTable
from coordinator.service import running_coordinator
from coordinator.settings import CoordinatorSettings
from sybil_engine.core.errors import Unavailable
from sybil_engine.core.session import Commit, SessionOpen
from sybil_engine.core.types import Speculation
from sybil_engine.settings import parse
from tests.contract.coordinator import services as toy_services
from tests.contract.coordinator.services import ToyDrafter, ToyVerifier, serving
from tests.unit.coordinator.toy import judged
from tests.unit.models.random_models import save_folder

ARM_KEYS = {"tokens_per_second", "acceptance_rate", "tokens_per_pass", "verifier_idle", "gap_between_passes_ns"}
COORDINATOR = CoordinatorSettings(port=0, start_s=10, drafter_start_s=5, reopen_s=5, grace_s=2)


@asynccontextmanager
async def toys(plan: Plan, report: Report) -> AsyncIterator[RunningServices]:
    """Takes the place of `running_services`."""
    async with serving(ToyVerifier(), ToyDrafter()) as (toy_verifier, toy_drafter):
        table = RoutingTable((toy_drafter.address,), (toy_verifier.address,))
        async with running_coordinator(COORDINATOR, table, report) as coordinator:
            yield RunningServices(coordinator.address, toy_verifier.address, toy_drafter.address)


@dataclass(frozen=True)
class Ran:
    same: bool
    printed: str
    remarks: str
    document: dict[str, Any]
    report: Path


def ran(folder: Path, *argv: str) -> Ran:
    model = str(save_folder(folder / "model"))
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt": "abab", "category": "code"}\n{"prompt": "ba", "category": "doctest"}\n')
    flags = ("--target", model, "--draft", model, "--prompts", str(prompts), "--max-tokens", "24", "--peers", "none")
    outputs = ("--json", str(folder / "out.json"), "--report", str(folder / "report"))
    plan = Plan.of(parse(BenchSettings, (*flags, *outputs, *argv), {}))
    output, remarks = io.StringIO(), io.StringIO()
    same = asyncio.run(bench(plan, Console(file=output, width=160), Console(file=remarks, width=160)))
    document = json.loads((folder / "out.json").read_text())
    return Ran(same, output.getvalue(), remarks.getvalue(), document, folder / "report")


@pytest.fixture(autouse=True)
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.engine, "running_services", toys)


def test_a_run_says_all_that_it_promises(tmp_path: Path) -> None:
    run = ran(tmp_path, "--arms", "off,lockstep,pipelined", "--lockstep-windows", "2,4", "--temperatures", "0.8")
    assert run.same
    document = run.document
    assert document["environment"]["name"] == "native"
    assert document["temperature"] == 0.8
    assert set(document["arms"]) == {"off", "lockstep", "pipelined"}
    assert all(set(figures) >= ARM_KEYS for figures in document["arms"].values())
    assert set(document["ratios"]) == {
        f"{one}/{other}" for one in document["arms"] for other in document["arms"] if one != other
    }
    assert document["differences"]["count"] == 0
    assert document["differences"]["margins"] == []
    # Two lockstep windows and one other arm, on two prompts.
    assert document["differences"]["compared"] == 6
    assert [each["window_tokens"] for each in document["lockstep_windows"]] == [2, 4]
    assert document["arms"]["lockstep"]["window_tokens"] in (2, 4)
    assert set(document["categories"]) == {"code", "doctest"}
    assert document["runs"][0]["arms"] == document["arms"]
    assert document["limits"] == {"max_window_tokens": 15, "draft_rows": 8, "branches": 6}
    assert document["tasks"] == [
        {"prompt_id": None, "category": "code", "seed": 0},
        {"prompt_id": None, "category": "doctest", "seed": 1},
    ]
    measurements = document["measurements"]
    assert set(measurements) == {"off", "lockstep-2", "lockstep-4", "pipelined"}
    for arm in measurements.values():
        assert [each["text_fingerprint"] for each in arm] == [each["text_fingerprint"] for each in measurements["off"]]
        assert all(1 <= each["first_tokens"] <= each["completion_tokens"] for each in arm)
    assert all(each["first_tokens"] == 1 for each in measurements["off"])
    assert {"machine", "versions", "settings"} <= set(document)
    assert document["arms"]["pipelined"]["tokens_per_pass"] > 1
    assert document["traces"]["pipelined"]["fates"]["accepted"] > 0
    assert "lockstep: a window of" in run.printed
    assert "prompt 2 of 2" in run.remarks
    assert {path.name for path in run.report.iterdir()} >= {"index.html", "timeline-lockstep-t0.8.png"}


def test_several_temperatures_are_several_runs(tmp_path: Path) -> None:
    document = ran(tmp_path, "--arms", "off", "--temperatures", "0,0.8").document
    assert [run["temperature"] for run in document["runs"]] == [0, 0.8]
    assert "arms" not in document


def test_emulated_figures_are_labelled_wherever_they_stand(tmp_path: Path) -> None:
    run = ran(tmp_path, "--arms", "off", "--temperatures", "0", "--env", "emulated")
    assert run.document["environment"] == {
        "name": "emulated",
        "emulated": True,
        "verify_ms": 30.0,
        "draft_ms": 3.0,
        "rtt_ms": 1.0,
        "row_ms": 0.0,
    }
    assert "EMULATED" in run.printed
    assert "EMULATED" in (run.report / "index.html").read_text()


def test_tokens_that_differ_are_an_error_with_a_place_and_a_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(opening: SessionOpen, *arguments: Any) -> Commit:
        seed = opening.seed + (opening.plan.speculation is Speculation.PIPELINED)
        return judged(replace(opening, seed=seed), *arguments)

    monkeypatch.setattr(toy_services, "judged", wrong)
    run = ran(tmp_path, "--arms", "off,pipelined", "--temperatures", "0", "--max-tokens", "8")
    assert not run.same
    assert run.document["differences"]["count"] == 2
    assert all(margin >= 0 for margin in run.document["differences"]["margins"])
    assert "must not happen" in run.printed


def test_a_hosted_service_ends_with_its_block() -> None:
    async def run() -> int | None:
        async with serving(ToyVerifier()) as (verifier,):
            async with hosted("coordinator", (), ("--verifiers", verifier.address)) as coordinator:
                address = await coordinator.address(lambda line: None, [coordinator])
                assert address.startswith("127.0.0.1:")
            return coordinator.process.returncode

    assert asyncio.run(run()) == 0


def test_a_service_that_does_not_start_says_why() -> None:
    async def run() -> None:
        plan = Plan.of(BenchSettings(verifier_arguments=("--model", "/no/such/model")))
        async with running_services(plan, lambda line: None):
            pass

    with pytest.raises(Unavailable, match="the verifier ended at its start: error: no folder /no/such/model"):
        asyncio.run(run())
