"""The settings of drafter and verifier say what they allow."""

import pytest

from drafter_service.settings import DrafterSettings
from sybil_engine.core.errors import InvalidSettings
from sybil_engine.core.model_choice import ModelChoice
from sybil_engine.serving.service_settings import ServiceSettings
from sybil_engine.settings import parse
from verifier_service.settings import VerifierSettings


@pytest.mark.parametrize("kind", [VerifierSettings, DrafterSettings])
@pytest.mark.parametrize(
    ("raw", "allowed"),
    [("0", "between 0.05 and 64.0"), ("65", "between 0.05 and 64.0"), ("some", "a finite number")],
)
def test_a_share_of_prompts_that_makes_no_sense_is_refused(kind: type[ServiceSettings], raw: str, allowed: str) -> None:
    with pytest.raises(InvalidSettings, match=f"--prefill-share is '{raw}'; it must be {allowed}"):
        parse(kind, ["--prefill-share", raw], {})
    assert parse(kind, ["--prefill-share", "0.5"], {}).prefill_share == 0.5
    assert parse(kind, [], {}).prefill_share == 1.0


def test_a_drafter_takes_its_weights_from_the_target_if_it_is_told_to() -> None:
    # As compose.yaml has it: variables, some of them empty.
    environ = {"SYBIL_DRAFTER_MODEL": "target", "SYBIL_DRAFTER_TARGET": "big", "SYBIL_DRAFTER_LAYERS": "4"}
    assert parse(DrafterSettings, [], environ).choice == ModelChoice("big", "float32", 4)
    environ |= {"SYBIL_DRAFTER_MODEL": "target:int8", "SYBIL_DRAFTER_LAYERS": "", "SYBIL_DRAFTER_DTYPE": "bfloat16"}
    assert parse(DrafterSettings, [], environ).choice == ModelChoice("big", "int8")
    assert DrafterSettings(model="target").choice == ModelChoice("embedded-target")
    assert DrafterSettings().choice == ModelChoice("embedded-draft")
    with pytest.raises(InvalidSettings, match="2 layers are to draft, but the draft model is embedded-draft"):
        _ = parse(DrafterSettings, ["--layers", "2"], {}).choice
