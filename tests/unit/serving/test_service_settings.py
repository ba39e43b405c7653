"""The settings of drafter and verifier say what they allow."""

import pytest

from drafter_service.settings import DrafterSettings
from sybil_engine.core.errors import InvalidSettings
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
