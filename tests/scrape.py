"""Reading a process's metrics as Prometheus does."""

import socket
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sybil_engine.serving.metrics import PREFIX


@dataclass(frozen=True)
class Scrape:
    """The metrics of one process at one moment, by name."""

    families: dict[str, Metric]

    def __getitem__(self, name: str) -> float:
        """The sum of a series' values over its labels; the name is without the prefix."""
        return self.value(name)

    def value(self, name: str, **labels: str) -> float:
        """The sum of a series' values where it has these labels."""
        samples = (sample for family in self.families.values() for sample in family.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name == PREFIX + name and labels.items() <= sample.labels.items()
        )


def scraped(port: int) -> Scrape:
    """Scrape a process of this machine."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return Scrape({family.name: family for family in text_string_to_metric_families(text)})


def free_ports(count: int) -> list[int]:
    """Free ports, one after the other."""
    while True:
        with ExitStack() as stack, suppress(OSError, OverflowError):
            first = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))).getsockname()[1]
            for port in range(first + 1, first + count):
                stack.enter_context(closing(socket.create_server(("127.0.0.1", port))))
            return list(range(first, first + count))
