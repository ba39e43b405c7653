"""A traced session is the session that the coordinator would have run, and all of it is in the report."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from benchmarks.anatomy import PARTS, Anatomy, Fate, acceptance_by_position, anatomy_figures
from benchmarks.arms import ArmKind, BenchTask, EngineArm
from benchmarks.engine import BenchEngine
from benchmarks.figures import machine, measured_figures, versions
from benchmarks.measurement import Measurement
from benchmarks.page import ReportedRun, write_report
from benchmarks.services import RunningServices
from benchmarks.trace import SessionTrace, trace_session
from sybil_engine.client import connected
from sybil_engine.core.types import SamplingParams, Speculation, TokenOrigin
from tests.contract.coordinator.services import ToyDrafter, ToyVerifier, serving
from tests.unit.coordinator.toy import toy_completion

PROMPT = (40, 41, 42)
SEED = 7
TOKENS = 40


def traced(*speculations: Speculation) -> dict[str, Anatomy]:
    async def run() -> dict[str, SessionTrace]:
        async with serving(ToyVerifier(pass_s=0.004), ToyDrafter(step_s=0.001)) as (verifier, drafter):
            services = RunningServices("", verifier.address, drafter.address)
            async with connected(verifier.address) as client:
                engine = BenchEngine(client.generate, services)
                task = BenchTask(PROMPT, SEED)
                return {
                    each.value: await trace_session(
                        engine, EngineArm(engine.generate, ArmKind(each), 0), task, SamplingParams(), TOKENS
                    )
                    for each in speculations
                }

    return {name: Anatomy(trace) for name, trace in asyncio.run(run()).items()}


@pytest.mark.parametrize("speculation", [Speculation.OFF, Speculation.LOCKSTEP, Speculation.PIPELINED])
def test_a_traced_session_has_the_sessions_tokens(speculation: Speculation) -> None:
    anatomy = traced(speculation)[speculation.value]
    committed = tuple(token for event in anatomy.trace.commits for token in event.commit.token_ids)
    assert committed == toy_completion(PROMPT, SEED, TOKENS)
    assert bool(anatomy.trace.blocks) == (speculation is not Speculation.OFF)
    assert anatomy.trace.verifier_wire_ns > 0


@pytest.mark.parametrize("speculation", [Speculation.LOCKSTEP, Speculation.PIPELINED])
def test_every_drafted_token_has_a_fate_and_the_accepted_ones_are_the_committed_ones(speculation: Speculation) -> None:
    anatomy = traced(speculation)[speculation.value]
    fates = Counter(token.fate for token in anatomy.drafted)
    assert anatomy_figures([anatomy])["fates"] == {fate: fates[fate] for fate in Fate}
    assert sum(fates.values()) == sum(len(event.block.token_ids) for event in anatomy.trace.blocks)
    tokens = [token for event in anatomy.trace.commits for token in event.commit.tokens]
    drafted = sum(token.origin is TokenOrigin.DRAFTED for token in tokens)
    assert fates[Fate.ACCEPTED] == drafted
    if speculation is Speculation.LOCKSTEP:
        # Every window is judged; here, one token of seven is wrong.
        assert fates[Fate.REJECTED] > 0


def test_a_passs_parts_are_its_time() -> None:
    anatomy = traced(Speculation.LOCKSTEP)["lockstep"]
    for each in anatomy.passes:
        assert min(getattr(each, part) for part in PARTS) >= 0
        assert each.end_ns - each.start_ns == each.forward_ns + each.sampling_ns
        assert each.accepted <= each.judged
    counts = acceptance_by_position([anatomy])
    assert [tested for tested, _ in counts] == sorted((tested for tested, _ in counts), reverse=True)
    assert all(accepted <= tested for tested, accepted in counts)


def test_the_report_holds_every_plot_in_one_page(tmp_path: Path) -> None:
    anatomies = {name: [each] for name, each in traced(Speculation.OFF, Speculation.PIPELINED).items()}
    measured = {"off": [Measurement((1, 2, 3), 0.1)] * 3, "pipelined": [Measurement((1, 2, 3), 0.05)] * 3}
    figures: dict[str, Any] = {
        "temperature": 0.0,
        **measured_figures(measured),
        "traces": {name: anatomy_figures(each) for name, each in anatomies.items()},
    }
    document = {
        "pair": {"target": {"model": "t", "parameters": 10**7}, "draft": None},
        "machine": machine(),
        "versions": versions(),
        "settings": {},
        "runs": [figures],
    }
    page = write_report(
        document, [ReportedRun(figures, [Text("a remark & more")], anatomies)], None, "EMULATED & more", tmp_path
    )
    written = page.read_text()
    plots = sorted(path.name for path in tmp_path.glob("*.png"))
    assert plots == [
        "acceptance-by-position-t0.png",
        "pass-time-t0.png",
        "throughput-t0.png",
        "timeline-pipelined-t0.png",
        "tokens-per-pass-t0.png",
    ]
    assert written.count("data:image/png;base64,") == len(plots)
    assert "EMULATED &amp; more" in written
    assert "a remark &amp; more" in written
    assert "http" not in written
    json.dumps(document)
