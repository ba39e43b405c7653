"""One run of the instrument, from the start of the services to the last plot."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from benchmarks.anatomy import Anatomy, anatomy_figures
from benchmarks.arms import Arm, EngineArm, engine_arms
from benchmarks.differences import TargetJudge, find_differences
from benchmarks.figures import (
    Measured,
    arm_figures,
    by_category,
    fastest,
    machine,
    measured_figures,
    measurement_figures,
    versions,
    with_best_lockstep,
)
from benchmarks.measurement import Measurement
from benchmarks.page import ReportedRun, write_report
from benchmarks.peers import TUNED, Found, PeerModels, PeerSearch, TransformersArm
from benchmarks.plan import Plan
from benchmarks.progress import BenchProgress
from benchmarks.remarks import remarks_on
from benchmarks.run import Task, run_interleaved, warm_up
from benchmarks.services import RunningServices, running_services
from benchmarks.tables import category_table, table
from benchmarks.trace import Tracer
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.plan import HEDGED_DRAFT_ROWS
from sybil_engine.core.types import ModelDescription, SamplingParams, Speculation

_SEARCHED_PROMPTS = 3
_TRACED_PROMPTS = 3


async def bench(plan: Plan, output: Console, remarks: Console) -> bool:
    """Measure, print, and write what was asked for.

    Returns:
        Whether all tokens that had to be the same were.

    Raises:
        SybilError: a prompt does not fit, or a service does not come up.
    """
    progress = BenchProgress(remarks)
    with progress.shown():
        run = await _Run.prepared(plan, output, progress)
        async with AsyncExitStack() as stack:
            services = await stack.enter_async_context(
                running_services(plan.environment, plan.verifier_arguments, plan.drafter_arguments, progress.say)
            )
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(services.coordinator))
            reported = [await run.measure(temperature, services, channel) for temperature in plan.temperatures]
    await asyncio.to_thread(_write, plan, run.document([each.figures for each in reported]), reported, output)
    return not any(each.figures["differences"]["count"] for each in reported)


def _write(plan: Plan, document: Mapping[str, Any], reported: Sequence[ReportedRun], output: Console) -> None:
    if plan.settings.json_file:
        Path(plan.settings.json_file).write_text(json.dumps(document, indent=2) + "\n")
    if plan.settings.report:
        page = write_report(document, reported, plan.environment.label, Path(plan.settings.report))
        output.print(f"Report: {page}", soft_wrap=True)


@dataclass
class _Run:
    """What all temperatures of a run share."""

    plan: Plan
    output: Console
    progress: BenchProgress
    target: ModelDescription
    draft: ModelDescription | None
    tasks: list[Task]
    machine: dict[str, Any]
    peer_models: PeerModels | None = None

    @classmethod
    async def prepared(cls, plan: Plan, output: Console, progress: BenchProgress) -> "_Run":
        """Find or grow the models, and tokenize the prompts; starts no service.

        Raises:
            InvalidSettings: a prompt does not fit the models' context.
        """
        # torch, which bad settings do not need.
        from sybil_engine.models.finding import find_folder
        from sybil_engine.models.loading import describe

        described = machine()
        if plan.settings.grow_target or plan.settings.grow_draft:
            progress.say("growing the models")
            await asyncio.to_thread(lambda: (plan.target, plan.draft))
        target = describe(plan.target, dtype=plan.settings.dtype)
        draft = describe(plan.draft, dtype=plan.draft_dtype) if plan.drafts else None
        tokenizer = Tokenizer.from_file(str(find_folder(plan.target) / "tokenizer.json"))
        prompts = [(tuple(tokenizer.encode(prompt.text).ids), prompt) for prompt in plan.prompts]
        context_tokens = min(each.context_tokens for each in (target, draft) if each)
        for number, (token_ids, _) in enumerate(prompts, start=1):
            if len(token_ids) + plan.settings.max_tokens > context_tokens:
                raise InvalidSettings(
                    f"prompt {number} has {len(token_ids)} tokens, which with --max-tokens {plan.settings.max_tokens} "
                    f"do not fit the models' context of {context_tokens}; shorten one of them"
                )
        tasks = [
            Task(token_ids, seed=1000 * repeat + number, category=prompt.category, prompt_id=prompt.id)
            for repeat in range(plan.settings.repeat)
            for number, (token_ids, prompt) in enumerate(prompts)
        ]
        return cls(plan, output, progress, target, draft, tasks, described)

    async def measure(self, temperature: float, services: RunningServices, channel: grpc.aio.Channel) -> ReportedRun:
        """Measure every arm and peer at one temperature."""
        plan, settings = self.plan, self.plan.settings
        sampling = SamplingParams(temperature=temperature)
        ours = engine_arms(channel, plan.speculations, plan.lockstep_windows, settings.window)
        found = await self._search_peers(sampling)
        peers = self._peer_arms(found)
        arms: list[Arm] = [*ours, *peers]
        await warm_up(arms, self.tasks[0], sampling, settings.max_tokens, self.progress.say)
        every = await self._interleaved(arms, sampling)
        measured, window_tokens = with_best_lockstep(every, plan.lockstep_windows)
        anatomies = await self._trace(ours, measured, window_tokens, services, sampling) if settings.report else {}
        figures: dict[str, Any] = {
            "environment": plan.environment.description,
            "pair": self._pair(),
            "temperature": temperature,
            **measured_figures(measured),
            "lockstep_windows": [
                {"window_tokens": arm.window_tokens, **arm_figures(every[arm.name])}
                for arm in ours
                if arm.speculation is Speculation.LOCKSTEP
            ],
            "peers": {name: each.figures for name, each in found.items()},
            "differences": self._differences(
                every,
                [arm.name for arm in ours],
                # Peers draw with noise of their own.
                [arm.name for arm in peers if arm.setting.dtype == settings.dtype] if sampling.greedy else [],
                sampling,
            ),
            "categories": {name: measured_figures(each) for name, each in by_category(measured, self.tasks).items()},
            "measurements": {name: measurement_figures(each) for name, each in every.items()},
            "traces": {name: anatomy_figures(each) for name, each in anatomies.items()},
        }
        if window_tokens is not None:
            figures["arms"][Speculation.LOCKSTEP.value]["window_tokens"] = window_tokens
        self._print(temperature, measured, figures)
        return ReportedRun(figures, anatomies)

    def document(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What the JSON file says. With a single temperature, its figures stand at the top as well."""
        shared = {
            "environment": self.plan.environment.description,
            "pair": self._pair(),
            "machine": self.machine,
            "versions": versions(),
            "settings": self.plan.settings.model_dump(by_alias=True),
            "limits": _limits(self.plan),
            "tasks": [
                {"prompt_id": task.prompt_id or None, "category": task.category, "seed": task.seed}
                for task in self.tasks
            ],
            "runs": list(runs),
        }
        return {**shared, **runs[0]} if len(runs) == 1 else shared

    async def _search_peers(self, sampling: SamplingParams) -> dict[str, Found]:
        plan = self.plan
        if not plan.peers:
            return {}
        search = PeerSearch(
            self._loaded_peers(),
            plan.peer_dtype,
            plan.settings.peer_dtypes,
            self.tasks[:_SEARCHED_PROMPTS],
            sampling,
            plan.settings.max_tokens,
            self.progress.say,
        )
        return {name: await search.find(name) for name in plan.peers}

    def _loaded_peers(self) -> PeerModels:
        from sybil_engine.models.finding import find_folder

        if self.peer_models is None:
            draft = find_folder(self.plan.draft) if self.plan.drafts else None
            self.peer_models = PeerModels(find_folder(self.plan.target), draft, self.plan.environment.peer_device)
        return self.peer_models

    def _peer_arms(self, found: Mapping[str, Found]) -> list[TransformersArm]:
        """Each peer with its defaults and, if that is something else, with its best setting."""
        arms = []
        for name, each in found.items():
            arms.append(TransformersArm(name, self._loaded_peers(), each.default))
            if each.best != each.default:
                arms.append(TransformersArm(name + TUNED, self._loaded_peers(), each.best))
        return arms

    async def _interleaved(self, arms: Sequence[Arm], sampling: SamplingParams) -> dict[str, list[Measurement]]:
        so_far: dict[str, list[Measurement]] = {arm.name: [] for arm in arms}
        self.progress.begin(len(self.tasks) * len(arms))

        def completed(number: int, arm: Arm, measurement: Measurement) -> None:
            so_far[arm.name].append(measurement)
            what = f"temperature {sampling.temperature:g}, prompt {number + 1} of {len(self.tasks)}"
            self.progress.advance(what, so_far, all(len(each) > number for each in so_far.values()))

        return await run_interleaved(arms, self.tasks, sampling, self.plan.settings.max_tokens, completed)

    async def _trace(
        self,
        ours: Sequence[EngineArm],
        measured: Measured,
        window_tokens: int | None,
        services: RunningServices,
        sampling: SamplingParams,
    ) -> dict[str, list[Anatomy]]:
        """Run some tasks again with every message written down; these are not timed."""
        tracer = Tracer(services, self.plan.environment.delay_ns)
        anatomies: dict[str, list[Anatomy]] = {}
        for arm in ours:
            lockstep = arm.speculation is Speculation.LOCKSTEP
            if lockstep and arm.window_tokens != window_tokens:
                continue
            name = arm.speculation.value
            assert name in measured
            self.progress.say(f"tracing {name}")
            anatomies[name] = [
                Anatomy(
                    await tracer.run(
                        name, arm.speculation, arm.window_tokens, task, sampling, self.plan.settings.max_tokens
                    )
                )
                for task in self.tasks[:_TRACED_PROMPTS]
            ]
        return anatomies

    def _differences(
        self, measured: Measured, ours: Sequence[str], peers: Sequence[str], sampling: SamplingParams
    ) -> dict[str, Any]:
        """Compare tokens with a reference arm's.

        Args:
            peers: arms of which the same tokens are expected, not promised.
        """
        from sybil_engine.models.finding import find_folder

        reference = Speculation.OFF.value if Speculation.OFF.value in ours else ours[0]
        others = [name for name in ours if name != reference]
        judge = TargetJudge(find_folder(self.plan.target), sampling)

        def compared(names: Sequence[str]) -> dict[str, Any]:
            different = find_differences(measured, reference, names, self.tasks, judge)
            return {
                "compared": len(names) * len(self.tasks),
                "count": len(different),
                "margins": [each.margin for each in different],
                "where": [asdict(each) for each in different],
            }

        return {
            "numerics": self.plan.settings.numerics,
            "reference": reference,
            **compared(others),
            "peers": compared(peers),
        }

    def _pair(self) -> dict[str, Any]:
        settings = self.plan.settings

        def model(description: ModelDescription, ref: str, grown: str) -> dict[str, Any]:
            return {
                "model": f"{ref} grown to {grown}" if grown else ref,
                "parameters": description.parameters,
                "architecture": description.architecture,
                "dtype": description.dtype,
                "tokenizer_fingerprint": description.tokenizer_fingerprint,
            }

        return {
            "target": model(self.target, self.plan.pair.target, settings.grow_target),
            "draft": model(self.draft, self.plan.pair.draft, settings.grow_draft) if self.draft else None,
        }

    def _print(self, temperature: float, measured: Measured, figures: Mapping[str, Any]) -> None:
        best_peer = fastest(measured, [name for name in measured if name.partition("-")[0] == "transformers"])
        wanted = (Speculation.OFF.value, Speculation.LOCKSTEP.value, best_peer or "")
        against = [name for name in wanted if name in measured] or [next(iter(measured))]
        title = f"{self.plan.environment.label}; temperature {temperature:g}; medians with 95 % intervals"
        self.output.print(table(title, measured, against))
        categories = by_category(measured, self.tasks)
        if len(categories) > 1:
            self.output.print(category_table("tokens/s by prompt category", categories, against[0]))
        for line in remarks_on(figures, self.plan.lockstep_windows):
            self.output.print(Text(line), soft_wrap=True)
        self.output.print()


def _limits(plan: Plan) -> dict[str, int]:
    """What bounds the passes of our arms."""
    # torch, which bad settings do not need.
    from verifier_service.policy.rows import MOST_BRANCHES

    return {
        "max_window_tokens": plan.max_window_tokens,
        "draft_rows": HEDGED_DRAFT_ROWS,
        "branches": MOST_BRANCHES,
    }
