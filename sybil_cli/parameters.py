"""Kinds of values that several commands take."""

import math
from typing import Any

import click

DEFAULT_COORDINATOR = "127.0.0.1:50051"


class _Seconds(click.FloatRange):
    """A time to wait."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


SECONDS = _Seconds(min=0, min_open=True, max=1e6)


class Address(click.ParamType[str]):
    """HOST:PORT, or :PORT or PORT alone on this machine."""

    name = "host:port"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        host, _, port = value.rpartition(":")
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536) or (":" in host and host[0] != "["):
            self.fail(f"{value!r} is not an address; write HOST:PORT, for example {DEFAULT_COORDINATOR}.", param, ctx)
        return f"{host or '127.0.0.1'}:{int(port)}"
