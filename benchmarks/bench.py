"""One benchmark run, from the start of the engine to the last plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from benchmarks.anatomy import Anatomy, anatomy_figures
from benchmarks.arms import BenchTask, EngineArm, by_category, with_best_windows
from benchmarks.differences import find_differences, target_margin
from benchmarks.engine import BenchEngine, running_engine
from benchmarks.figures import arm_figures, machine, measured_figures, measurement_figures, versions
from benchmarks.measurement import Measured, Measurement, median_speed
from benchmarks.page import ReportedRun, write_report
from benchmarks.peers import TUNED, Found, PeerModels, PeerSearch, TransformersArm
from benchmarks.plan import Plan
from benchmarks.progress import BenchProgress
from benchmarks.settings import PEER_DTYPES
from benchmarks.summary import summary
from benchmarks.sweep import Sweep, sweep_figures, sweep_of, sweep_tables
from benchmarks.trace import trace_session
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.plan import HEDGED_DRAFT_ROWS
from sybil_engine.core.types import ModelDescription, SamplingParams, Speculation

# Enough to search for peers' best settings, and to trace.
_FEW_PROMPTS = 3


async def bench(plan: Plan, output: Console, remarks: Console) -> bool:
    """Measure, print, and write the requested files.

    Returns:
        Whether all tokens that had to be equal were equal.

    Raises:
        SybilError: a prompt does not fit, or a service does not come up.
    """
    progress = BenchProgress(remarks)
    with progress.bar:
        run = _Run.prepared(plan, output, progress)
        async with running_engine(plan, progress.say) as engine:
            reported = [await run.measure(temperature, engine) for temperature in plan.settings.temperatures]
    document = run.document([each.figures for each in reported])
    sweep = sweep_of(document, [each.figures for each in reported]) if plan.settings.sweep else None
    if sweep:
        document["sweep"] = sweep_figures(sweep)
        for part in sweep_tables(sweep):
            output.print(part)
    _write(plan, document, reported, sweep, output)
    return not any(each.figures["differences"]["count"] for each in reported)


def _write(
    plan: Plan, document: Mapping[str, Any], reported: Sequence[ReportedRun], sweep: Sweep | None, output: Console
) -> None:
    if plan.settings.json_file:
        Path(plan.settings.json_file).write_text(json.dumps(document, indent=2) + "\n")
    if plan.settings.report:
        page = write_report(document, reported, sweep, plan.environment.label, Path(plan.settings.report))
        output.print(f"Report: {page}", soft_wrap=True)


@dataclass(frozen=True)
class _Run:
    """What all temperatures of a run share."""

    plan: Plan
    output: Console
    progress: BenchProgress
    pair: dict[str, Any]
    tasks: list[BenchTask]
    machine: dict[str, Any]
    models: PeerModels

    @classmethod
    def prepared(cls, plan: Plan, output: Console, progress: BenchProgress) -> "_Run":
        """Find or grow the models, and tokenize the prompts; starts no service.

        Raises:
            InvalidSettings: a prompt does not fit the models' context.
        """
        # torch, which bad settings do not need.
        from sybil_engine.models.finding import find_folder
        from sybil_engine.models.loading import describe

        # Before this run puts load on the machine.
        described = machine()
        if plan.settings.grow_target or plan.settings.grow_draft:
            progress.say("growing the models")
        target = describe(plan.target, dtype=plan.settings.dtype)
        drafting = plan.draft
        draft = describe(drafting.ref, dtype=drafting.dtype, layers=drafting.layers) if drafting else None
        folder = find_folder(plan.target)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tasks = _tasks(plan, tokenizer, min(each.context_tokens for each in (target, draft) if each))
        pair = {
            "target": _model_figures(target, plan.pair.target, plan.settings.grow_target),
            "draft": _model_figures(draft, plan.pair.draft, plan.settings.grow_draft) if draft else None,
        }
        models = PeerModels(folder, find_folder(drafting.ref) if drafting else None, plan.environment.peer_device)
        return cls(plan, output, progress, pair, tasks, described, models)

    async def measure(self, temperature: float, engine: BenchEngine) -> ReportedRun:
        """Measure every arm and peer at one temperature."""
        plan = self.plan
        sampling = SamplingParams(temperature=temperature)
        ours = [
            EngineArm(engine.generate, kind, window_tokens)
            for kind in plan.kinds
            for window_tokens in plan.windows(kind.speculation)
        ]
        found, peers = await self._search_peers(sampling)
        every = await self._interleaved([*ours, *peers], sampling)
        windows = {arm.name: arm for arm in ours if arm.searches}
        measured, best_windows = with_best_windows(every, ours)
        anatomies = await self._trace(engine, ours, best_windows, sampling) if plan.settings.report else {}
        figures: dict[str, Any] = {
            "environment": plan.environment.description,
            "pair": self.pair,
            "temperature": temperature,
            **measured_figures(measured),
            "lockstep_windows": [
                {"arm": arm.group, "window_tokens": arm.window_tokens, **arm_figures(every[name])}
                for name, arm in windows.items()
            ],
            "peers": {name: each.figures for name, each in found.items()},
            "differences": self._differences(
                every,
                [arm.name for arm in ours],
                # When sampling, peers draw with other noise.
                [arm.name for arm in peers if arm.setting.dtype == plan.settings.dtype] if sampling.greedy else [],
                sampling,
            ),
            "categories": {name: measured_figures(each) for name, each in by_category(measured, self.tasks).items()},
            "measurements": {name: measurement_figures(each) for name, each in every.items()},
            "traces": {name: anatomy_figures(each) for name, each in anatomies.items()},
        }
        for group, window_tokens in best_windows.items():
            figures["arms"][group]["window_tokens"] = window_tokens
        title = f"{plan.environment.label}; temperature {temperature:g}; medians with 95 % intervals"
        shown = summary(title, figures)
        for part in shown:
            self.output.print(part, soft_wrap=isinstance(part, Text))
        self.output.print()
        return ReportedRun(figures, shown, anatomies)

    def document(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The JSON document. With a single temperature, its figures are at the top level as well."""
        # torch, which bad settings do not need.
        from verifier_service.policy.rows import MOST_BRANCHES

        shared = {
            "environment": self.plan.environment.description,
            "pair": self.pair,
            "machine": self.machine,
            "versions": versions(),
            "settings": self.plan.settings.model_dump(by_alias=True),
            "limits": {
                "max_window_tokens": self.plan.max_window_tokens,
                "draft_rows": HEDGED_DRAFT_ROWS,
                "branches": MOST_BRANCHES,
            },
            "tasks": [
                {"prompt_id": task.prompt_id or None, "category": task.category, "seed": task.seed}
                for task in self.tasks
            ],
            "runs": list(runs),
        }
        return {**shared, **runs[0]} if len(runs) == 1 else shared

    async def _search_peers(self, sampling: SamplingParams) -> tuple[dict[str, Found], list[TransformersArm]]:
        """Each peer with its defaults and, if that is something else, with its best setting."""
        settings, tasks = self.plan.settings, self.tasks[:_FEW_PROMPTS]
        # The target's type by default, if peers offer it.
        dtypes = (settings.dtype if settings.dtype in PEER_DTYPES else "float32", *settings.peer_dtypes)
        search = PeerSearch(self.models, dtypes, tasks, sampling, settings.max_tokens, self.progress.say)
        found = {name: await search.find(name) for name in self.plan.peers}
        chosen = {name: each.default for name, each in found.items()}
        chosen |= {name + TUNED: each.best for name, each in found.items() if each.best != each.default}
        return found, [TransformersArm(name, self.models, setting) for name, setting in chosen.items()]

    async def _interleaved(
        self, arms: Sequence[EngineArm | TransformersArm], sampling: SamplingParams
    ) -> dict[str, list[Measurement]]:
        """Complete every task with every arm, each arm in turn going first; one warm-up completion of each arm before.

        Returns:
            By arm, one measurement for each task, in order.
        """
        max_tokens = self.plan.settings.max_tokens
        for arm in arms:
            self.progress.say(f"warming up {arm.name}")
            await arm.complete(self.tasks[0], sampling, max_tokens)
        measured: dict[str, list[Measurement]] = {arm.name: [] for arm in arms}
        self.progress.begin(len(self.tasks) * len(arms))
        for number, task in enumerate(self.tasks):
            step = f"temperature {sampling.temperature:g}, prompt {number + 1} of {len(self.tasks)}"
            turn = number % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                measured[arm.name].append(await arm.complete(task, sampling, max_tokens))
                self.progress.advance(step)
            speeds = ", ".join(f"{name} {median_speed(each):.1f}" for name, each in measured.items())
            self.progress.say(f"{step}; tokens/s so far: {speeds}")
        return measured

    async def _trace(
        self, engine: BenchEngine, ours: Sequence[EngineArm], best_windows: Mapping[str, int], sampling: SamplingParams
    ) -> dict[str, list[Anatomy]]:
        """Run some tasks again, untimed, and record every message; empty where there are no messages."""
        anatomies = {}
        for arm in ours if engine.services else ():
            if arm.window_tokens == best_windows.get(arm.group, arm.window_tokens):
                self.progress.say(f"tracing {arm.name}")
                anatomies[arm.group] = [
                    Anatomy(await trace_session(engine, arm, task, sampling, self.plan.settings.max_tokens))
                    for task in self.tasks[:_FEW_PROMPTS]
                ]
        return anatomies

    def _differences(
        self, measured: Measured, ours: Sequence[str], peers: Sequence[str], sampling: SamplingParams
    ) -> dict[str, Any]:
        """Compare tokens with a reference arm's.

        Args:
            peers: arms whose tokens are expected to be the same, but not guaranteed.
        """
        reference = Speculation.OFF.value if Speculation.OFF.value in ours else ours[0]
        margin = partial(target_margin, self.models, sampling)

        def compared(names: Sequence[str]) -> dict[str, Any]:
            different = find_differences(measured, reference, names, self.tasks, margin)
            return {
                "compared": len(names) * len(self.tasks),
                "count": len(different),
                "margins": [each.margin for each in different],
                "where": [asdict(each) for each in different],
            }

        return {
            "numerics": self.plan.settings.numerics,
            "reference": reference,
            **compared([name for name in ours if name != reference]),
            "peers": compared(peers),
        }


def _model_figures(description: ModelDescription, ref: str, grown: str) -> dict[str, Any]:
    described = ("parameters", "architecture", "dtype", "tokenizer_fingerprint")
    figures = {name: getattr(description, name) for name in described}
    return {"model": f"{ref} grown to {grown}" if grown else description.model_id, **figures}


def _tasks(plan: Plan, tokenizer: Tokenizer, context_tokens: int) -> list[BenchTask]:
    prompts = [tuple(tokenizer.encode(prompt.prompt).ids) for prompt in plan.prompts]
    for number, token_ids in enumerate(prompts, start=1):
        if len(token_ids) + plan.settings.max_tokens > context_tokens:
            raise InvalidSettings(
                f"prompt {number} has {len(token_ids)} tokens, which with --max-tokens {plan.settings.max_tokens} "
                f"do not fit the models' context of {context_tokens}; shorten one of them"
            )
    return [
        BenchTask(token_ids, seed=1000 * repeat + number, category=prompt.category, prompt_id=prompt.id)
        for repeat in range(plan.settings.repeat)
        for number, (token_ids, prompt) in enumerate(zip(prompts, plan.prompts, strict=True))
    ]
