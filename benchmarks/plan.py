"""What a run will do, checked as far as possible before anything starts."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmarks.arms import ArmKind
from benchmarks.environments import Environment, environment_of
from benchmarks.prompts import read_prompts
from benchmarks.settings import PEERS, BenchSettings
from drafter_service.settings import DrafterSettings
from reporting.outputs import check_file, check_report_folder
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.model_choice import ModelChoice, draft_choice
from sybil_engine.core.references import NO_DRAFTER, TARGET_ITSELF
from sybil_engine.core.types import Speculation
from sybil_engine.models.presets import Pair, pair_of
from sybil_engine.prompts import Prompt
from sybil_engine.settings import parse
from verifier_service.settings import VerifierSettings

_ASSISTED = "transformers-assisted"


@dataclass(frozen=True)
class Plan:
    """One benchmark run.

    Attributes:
        peers: empty if there is no peer to compare with.
    """

    settings: BenchSettings
    environment: Environment
    pair: Pair
    prompts: tuple[Prompt, ...]
    peers: tuple[str, ...]
    kinds: tuple[ArmKind, ...]

    @classmethod
    def of(cls, settings: BenchSettings) -> "Plan":
        """Check the settings against one another and this machine; loads no weights and starts nothing.

        Raises:
            InvalidSettings: a setting is impossible here.
        """
        models = settings.preset, settings.target, settings.draft, settings.draft_layers, settings.draft_dtype
        pair = pair_of(*models)
        plan = cls(
            settings,
            environment_of(settings),
            pair,
            tuple(read_prompts(settings.prompts, settings.count)),
            _peers(settings, pair),
            tuple(dict.fromkeys(map(ArmKind.of, settings.arms))),
        )
        for name, service in (("verifier", VerifierSettings), ("drafter", DrafterSettings)):
            try:
                parse(service, getattr(settings, f"{name}_arguments"), {})
            except InvalidSettings as error:
                raise InvalidSettings(f"--{name}-arguments: {error}") from error
        plan._check_pair()
        if settings.env == "local" and plan.drafter_services > 1:
            raise InvalidSettings("--env local runs one drafter; measure several drafter services with another --env")
        if settings.json_file:
            check_file(Path(settings.json_file), "--json")
        if settings.report:
            check_report_folder(Path(settings.report), "--report")
        return plan

    @property
    def drafts(self) -> bool:
        return self.pair.draft != NO_DRAFTER

    @property
    def drafter_services(self) -> int:
        """How many drafters run: as many as an arm asks for."""
        return max(each.services for each in self.kinds) if self.drafts else 0

    @cached_property
    def target(self) -> str:
        """The target model's reference; the model is grown now if need be."""
        return _grown(self.pair.target, self.settings.grow_target)

    @cached_property
    def draft(self) -> ModelChoice | None:
        """The same for the draft model's weights; None if there is none."""
        if not self.drafts:
            return None
        settings = self.settings
        named = draft_choice(
            self.pair.draft, self.target, settings.draft_layers, settings.draft_dtype, both=settings.dtype
        )
        return replace(named, ref=_grown(named.ref, settings.grow_draft))

    @property
    def max_window_tokens(self) -> int:
        """The most drafted tokens that one pass may judge for a session."""
        return max(VerifierSettings().max_window_tokens, self.settings.window, *self.settings.lockstep_windows)

    @property
    def verifier_arguments(self) -> tuple[str, ...]:
        """The verifier's flags."""
        settings = self.settings
        return (
            *self.environment.verifier_arguments,
            *("--model", self.target, "--dtype", settings.dtype, "--numerics", settings.numerics),
            *("--max-window-tokens", str(self.max_window_tokens)),
            *settings.verifier_arguments,
        )

    @property
    def drafter_arguments(self) -> tuple[str, ...]:
        """The drafter's flags; none if there is no drafter."""
        draft = self.draft
        if draft is None:
            return ()
        part = ("--model", TARGET_ITSELF, "--target", draft.ref, "--layers", str(draft.layers))
        model = (*(part if draft.layers else ("--model", draft.ref)), "--dtype", draft.dtype)
        return (*self.environment.drafter_arguments, *model, *self.settings.drafter_arguments)

    @property
    def service_settings(self) -> tuple[VerifierSettings, DrafterSettings | None]:
        """The services' settings, for an engine in this process."""
        drafter = parse(DrafterSettings, self.drafter_arguments, {}) if self.drafts else None
        return parse(VerifierSettings, self.verifier_arguments, {}), drafter

    def windows(self, speculation: Speculation) -> tuple[int, ...]:
        """The windows to measure of a kind of speculation, in tokens; 0: the policy's choice."""
        lockstep = speculation is Speculation.LOCKSTEP
        return tuple(dict.fromkeys(self.settings.lockstep_windows if lockstep else (self.settings.window,)))

    def _check_pair(self) -> None:
        settings = self.settings
        if not self.drafts:
            drafting = [each.speculation.value for each in self.kinds if each.speculation is not Speculation.OFF]
            drafting += [peer for peer in self.peers if peer == _ASSISTED]
            drafting += ["--grow-draft"] if settings.grow_draft else []
            if drafting:
                raise InvalidSettings(
                    f"--draft none leaves {', '.join(drafting)} without a draft model; name one, or choose --arms off "
                    "and other --peers"
                )
        if settings.grow_draft and self.pair.target_drafts:
            raise InvalidSettings(
                f"--grow-draft enlarges a draft model of its own, and --draft is {self.pair.draft}; leave it out, or "
                "grow the target"
            )
        choice = self.pair.draft_choice
        for ref, size in (
            (self.pair.target, settings.grow_target),
            (choice.ref if choice else "", settings.grow_draft),
        ):
            if size:
                from benchmarks.grown import check_growth

                check_growth(ref, size)
        if not self.pair.is_embedded:
            # The coordinator's check: it would refuse the pair later.
            from coordinator.pairing import check_pair

            target, draft = self.pair.described()
            if draft:
                check_pair(target, draft)


def _grown(ref: str, size: str) -> str:
    if not size:
        return ref
    from benchmarks.grown import grow

    return str(grow(ref, size))


def _peers(settings: BenchSettings, pair: Pair) -> tuple[str, ...]:
    emulated = settings.env == "emulated"
    if settings.peers is None:
        alone = pair.target_drafts or pair.draft == NO_DRAFTER
        return () if emulated else tuple(peer for peer in PEERS if not (alone and peer == _ASSISTED))
    named = tuple(peer for peer in dict.fromkeys(settings.peers) if peer != "none")
    if _ASSISTED in named and pair.target_drafts:
        raise InvalidSettings(
            f"--peers {_ASSISTED} needs a draft model of its own, and --draft is {pair.draft}; leave one of them out"
        )
    if named and emulated:
        raise InvalidSettings(
            f"--peers {','.join(named)} cannot run under --env emulated: their passes have no set duration; leave "
            "--peers out"
        )
    return named
