"""The limits that a request must keep to count as good."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.record import RequestRecord, Status
from sybil_engine.core.errors import InvalidSettings

_UNITS_NS = {"us": 1e3, "ms": 1e6, "s": 1e9}
_LIMIT = re.compile(r"\s*(\w+)\s*=\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*")
_NAMES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits by name, in ns: `ttft` (time to first token), `tpot` (time per output token), `e2e` (whole request)."""

    limits_ns: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> "Slo":
        """Read limits such as `ttft=1s,tpot=50ms`.

        Raises:
            InvalidSettings: a limit is unknown, named twice, zero, or not a duration.
        """
        limits: dict[str, float] = {}
        for part in text.split(","):
            match = _LIMIT.fullmatch(part)
            if not match or match[1] not in _NAMES:
                raise InvalidSettings(
                    f"{part.strip()!r} in --slo is not a limit; write {', '.join(_NAMES)} with a time in us, ms or s, "
                    "such as --slo ttft=1s,tpot=50ms"
                )
            if match[1] in limits:
                raise InvalidSettings(f"--slo names {match[1]} twice; give each limit once")
            limits[match[1]] = float(match[2]) * _UNITS_NS[match[3]]
            if not limits[match[1]]:
                raise InvalidSettings(f"--slo {part.strip()} is a limit of 0, which no request can keep; allow more")
        return cls(limits)

    def kept_by(self, record: RequestRecord) -> bool:
        """Whether the request completed within every limit; a time that it does not have is within any."""
        times = {"ttft": record.ttft_ns, "tpot": record.tpot_ns, "e2e": record.total_ns}
        within = all((times[name] or 0) <= limit_ns for name, limit_ns in self.limits_ns.items())
        return record.status is Status.COMPLETED and within

    def __str__(self) -> str:
        return ", ".join(f"{name} <= {limit_ns / 1e6:g} ms" for name, limit_ns in self.limits_ns.items())
