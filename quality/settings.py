"""The settings of a quality run."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat
from pydantic_settings import SettingsConfigDict

from quality.judge_setting import JudgeSetting
from sybil_engine.settings import Constraint, Settings, Split, Words

SWEEP = (
    "shared-noise",
    "ratio-test",
    *("typical:0.02", "typical:0.09", "typical:0.3"),
    *("top-k:2", "top-k:3", "top-k:8"),
    *("threshold:0.1", "threshold:0.3", "threshold:0.6"),
)


class QualitySettings(Settings):
    """Measure throughput against quality for every judge and a sweep of its parameter."""

    model_config = SettingsConfigDict(env_prefix="SYBIL_QUALITY_")

    judges: Annotated[
        Words,
        Constraint(
            "a list of acceptance rules, each perhaps with its parameter as in top-k:3",
            lambda names: bool(names) and all(map(JudgeSetting.is_known, names)),
        ),
    ] = Field(
        default=SWEEP, description="acceptance rules to measure, with their parameters; shared-noise is always one"
    )
    temperatures: Annotated[tuple[NonNegativeFloat, ...], Split, Constraint("numbers from 0 on", bool)] = Field(
        default=(0, 0.7, 1), description="each measured apart"
    )
    count: int = Field(default=9, ge=1, description="built-in prompts to use, a category at a time")
    max_tokens: int = Field(default=96, ge=4, description="tokens to generate for each")
    target: str = Field(default="", description="the target model: a folder or a hub id; empty: the embedded one")
    draft: str = Field(default="", description="the draft model: a folder or a hub id; empty: the embedded one")
    json_file: str = Field(default="", alias="json", description="file to write every figure to")
    report: str = Field(default="", description="folder to write the plot and a page to")
