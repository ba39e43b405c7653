"""Settings from flags and environment variables: a frozen dataclass says all there is to know.

A field `max_sessions: int = field(default=8, metadata={"help": "...", "check": at_least(1)})` becomes the flag
`--max-sessions` and, with the prefix `SYBIL_DRAFTER_`, the variable `SYBIL_DRAFTER_MAX_SESSIONS`. Flags win over the
environment; a name that nobody knows is an error, never a default. An empty variable counts as unset, because compose
files cannot leave one out.

Types: int, float, str, bool, tuple[str, ...] (comma-separated), Literal and Enum choices, and each of them `| None`.
"""

import argparse
import difflib
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from typing import Any, ClassVar, Literal, NoReturn, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from sybil_engine.core.errors import InvalidSettings

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")


class SettingsClass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Settings = TypeVar("Settings", bound=SettingsClass)


@dataclass(frozen=True)
class Check:
    """A rule for one value, put under "check" in a field's metadata.

    Attributes:
        allowed: completes the sentence "it must be ...".
        holds: whether a value, converted already, keeps the rule.
    """

    allowed: str
    holds: Callable[[Any], bool]


def at_least(low: float) -> Check:
    """Allow numbers from `low` on."""
    return Check(f"at least {low}", lambda value: bool(value >= low))


def between(low: float, high: float) -> Check:
    """Allow numbers from `low` to `high`, both included."""
    return Check(f"between {low} and {high}", lambda value: bool(low <= value <= high))


PORT = between(0, 65535)


def parse(
    settings_class: type[Settings],
    argv: Sequence[str],
    environ: Mapping[str, str],
    prefix: str,
    program: str | None = None,
) -> Settings:
    """Read `settings_class` from flags and environment; `--help` prints what there is and exits 0.

    Args:
        argv: flags, without the program's name.
        prefix: of the environment variables that are ours, for example "SYBIL_DRAFTER_".
        program: the name that `--help` prints.

    Raises:
        InvalidSettings: an unknown name (with the nearest known one), a value that is not allowed, or a missing one.
    """
    options = [_Option.of(field_, get_type_hints(settings_class)[field_.name]) for field_ in fields(settings_class)]
    values: dict[str, Any] = {}
    for source in (
        _from_environment(options, environ, prefix),
        _from_flags(settings_class, options, argv, prefix, program),
    ):
        values.update((option.name, option.convert(raw, written)) for option, raw, written in source)
    for option in options:
        if option.required and option.name not in values:
            raise InvalidSettings(f"{option.flag} is missing; give it, or set {option.variable(prefix)}")
    return settings_class(**values)


def parse_or_exit(
    settings_class: type[Settings],
    argv: Sequence[str],
    environ: Mapping[str, str],
    prefix: str,
    program: str,
) -> Settings:
    """Read settings as `parse` does; what is wrong with them becomes one line on stderr and exit status 2."""
    try:
        return parse(settings_class, argv, environ, prefix, program)
    except InvalidSettings as error:
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(2) from None


@dataclass(frozen=True)
class _Option:
    """One field, as flag and variable."""

    name: str
    type_: Any
    help: str
    check: Check | None
    required: bool
    default: Any

    @classmethod
    def of(cls, field_: Field[Any], hint: Any) -> "_Option":
        default = field_.default if field_.default_factory is MISSING else field_.default_factory()
        return cls(
            name=field_.name,
            type_=_without_none(hint),
            help=field_.metadata.get("help", ""),
            check=field_.metadata.get("check"),
            required=default is MISSING,
            default=default,
        )

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def variable(self, prefix: str) -> str:
        return prefix + self.name.upper()

    @property
    def described(self) -> str:
        """What `--help` says: the purpose, the choices, the default."""
        choices = _choices(self.type_)
        parts = [self.help] if self.help else []
        if choices:
            parts.append(f"one of {_listed(choices)}")
        elif self.check:
            parts.append(self.check.allowed)
        parts.append("required" if self.required else f"default: {_written(self.default)}")
        return "; ".join(parts)

    def convert(self, raw: str, written: str) -> Any:
        """Turn `raw` into this option's type; `written` is how the user named it."""
        try:
            value = _converted(self.type_, raw)
        except ValueError as error:
            raise InvalidSettings(f"{written} is {raw!r}; it must be {error}") from None
        if self.check and not self.check.holds(value):
            raise InvalidSettings(f"{written} is {raw!r}; it must be {self.check.allowed}")
        return value


_Reading = tuple[_Option, str, str]
"""An option, its value as text, and the name by which the user gave it."""


def _from_environment(options: Sequence[_Option], environ: Mapping[str, str], prefix: str) -> Iterable[_Reading]:
    known = {option.variable(prefix): option for option in options}
    for variable in sorted(name for name in environ if name.startswith(prefix)):
        if variable not in known:
            raise InvalidSettings(f"{variable} is not a setting{_nearest(variable, known)}")
        if environ[variable]:
            yield known[variable], environ[variable], variable


def _from_flags(
    settings_class: type[Settings], options: Sequence[_Option], argv: Sequence[str], prefix: str, program: str | None
) -> Iterable[_Reading]:
    parser = _Parser(
        prog=program,
        description=(settings_class.__doc__ or "").strip().split("\n\n")[0],
        epilog=f"Each is also an environment variable, {options[0].variable(prefix)} for the first one. Flags win.",
        allow_abbrev=False,
    )
    flags = {option.flag: option for option in options}
    for flag, option in flags.items():
        if option.type_ is bool:
            flags = {**flags, f"--no-{flag[2:]}": option}
            group = parser.add_mutually_exclusive_group()
            group.add_argument(flag, dest=flag, action="store_const", const="true", help=_percent(option.described))
            group.add_argument(f"--no-{flag[2:]}", dest=flag, action="store_const", const="false", help="the opposite")
        else:
            parser.add_argument(flag, dest=flag, metavar=_metavar(option.type_), help=_percent(option.described))
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        raise InvalidSettings(f"{name} is not a flag{_nearest(name, flags)}")
    for flag, raw in vars(given).items():
        if raw is not None:
            yield flags[flag], raw, flag


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidSettings(message)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest one is {close[0]}" if close else ""


def _converted(type_: Any, raw: str) -> Any:
    """Convert text, or raise ValueError with what is allowed."""
    choices = _choices(type_)
    if choices:
        if raw not in choices:
            raise ValueError(f"one of {_listed(choices)}")
        return choices[raw]
    if type_ is bool:
        if raw.lower() not in TRUE_WORDS + FALSE_WORDS:
            raise ValueError("true or false")
        return raw.lower() in TRUE_WORDS
    if type_ is int:
        return _number(int, raw, "a whole number")
    if type_ is float:
        return _number(float, raw, "a finite number")
    if type_ is str:
        return raw
    if get_origin(type_) is tuple and get_args(type_) == (str, ...):
        return tuple(part.strip() for part in raw.split(",") if part.strip())
    raise TypeError(f"settings of type {type_} cannot be read from text")


def _number(convert: type[int] | type[float], raw: str, allowed: str) -> float:
    try:
        number = convert(raw)
    except ValueError:
        raise ValueError(allowed) from None
    if not math.isfinite(number):
        raise ValueError(allowed)
    return number


def _choices(type_: Any) -> dict[str, Any]:
    """The choices of a Literal or an Enum by their spelling; empty for any other type."""
    if get_origin(type_) is Literal:
        return {str(choice): choice for choice in get_args(type_)}
    if isinstance(type_, type) and issubclass(type_, Enum):
        return {str(choice.value): choice for choice in type_}
    return {}


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (part for part in get_args(hint) if part is not types.NoneType)
    return hint


def _metavar(type_: Any) -> str:
    if _choices(type_):
        return "CHOICE"
    return {int: "NUMBER", float: "NUMBER", str: "TEXT"}.get(type_, "LIST")


def _listed(choices: Iterable[str]) -> str:
    return ", ".join(choices)


def _written(default: Any) -> str:
    if default is None or default in ("", ()):
        return "left out"
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default.value if isinstance(default, Enum) else default)


def _percent(text: str) -> str:
    """Protect text from argparse, which formats help with %."""
    return text.replace("%", "%%")
