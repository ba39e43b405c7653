"""Settings from flags and environment variables, each declared once.

A field `max_sessions: int = Field(default=8, ge=1, description="...")` of a class with the prefix `SYBIL_DRAFTER_` is
the flag `--max-sessions` and the variable `SYBIL_DRAFTER_MAX_SESSIONS`. Flags win over variables. An unknown name is an
error. An empty variable counts as unset, because compose files cannot leave one out.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from sybil_engine.core.errors import InvalidSettings


def _split(raw: Any) -> Any:
    return tuple(filter(None, map(str.strip, raw.split(",")))) if isinstance(raw, str) else raw


Split = BeforeValidator(_split)
"""Of a tuple: in a flag or a variable its values are separated by commas."""

Words = Annotated[tuple[str, ...], Split]
"""Several words."""

MOST_PORT = 65535

Port = Annotated[int, Field(ge=0, le=MOST_PORT)]

_KINDS = {"int": "a whole number", "float": "a finite number", "finite": "a finite number", "bool": "true or false"}


@dataclass(frozen=True)
class Constraint:
    """A rule that `Field` cannot state: `allowed` completes "it must be ...", `holds` judges a value of the type."""

    allowed: str
    holds: Callable[[Any], bool]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if value is not None and not self.holds(value):
            raise ValueError(self.allowed)
        return value


class Settings(BaseSettings):
    """Frozen values. The constructor does not read the environment; only `parse` does.

    Raises:
        InvalidSettings: an unknown name, a missing value, or one that is not allowed.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, enable_decoding=False, env_prefix_target="all"
    )

    def __init__(self, *, _written: Callable[[str], str] = str, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidSettings(_sentence(type(self), error, _written)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def named(cls) -> dict[str, FieldInfo]:
        """Every field by its public name: its alias if it has one."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def variable(cls, name: str) -> str:
        """The environment variable of a field."""
        return f"{cls.model_config['env_prefix']}{name}".upper()


SettingsType = TypeVar("SettingsType", bound=Settings)


def parse(
    settings_class: type[SettingsType], argv: Sequence[str], environ: Mapping[str, str], program: str = ""
) -> SettingsType:
    """Read settings from flags and environment. `--help` prints all of them, under the program's name, and exits 0.

    Raises:
        InvalidSettings: an unknown name (with the nearest known one), a missing value, or one that is not allowed.
    """
    variables, flags = _variables(settings_class, environ), _flags(settings_class, argv, program)
    # Variables win in this first check: a bad one is an error even if a flag overrides it.
    settings_class(
        _written=lambda name: settings_class.variable(name) if name in variables else _flag(name), **flags | variables
    )
    return settings_class(_written=_flag, **variables | flags)


def _variables(settings_class: type[Settings], environ: Mapping[str, str]) -> dict[str, Any]:
    known = [settings_class.variable(name) for name in settings_class.named()]
    for name in sorted(environ):
        if name.startswith(settings_class.variable("")) and name not in known:
            raise InvalidSettings(f"{name} is not a setting{_nearest(name, known)}")
    source = EnvSettingsSource(settings_class)
    source.env_vars = {name.lower(): value for name, value in environ.items() if value}
    return {name: value for name, value in source().items() if name in settings_class.named()}


def _flags(settings_class: type[Settings], argv: Sequence[str], program: str) -> dict[str, Any]:
    options: list[click.Parameter] = [_option(*item) for item in settings_class.named().items()]
    purpose = (settings_class.__doc__ or "").partition("\n\n")[0]
    note = f"Each is an environment variable, too: {settings_class.variable(options[0].name)} is the first. Flags win."
    command = click.Command(program, params=options, help=purpose, epilog=note)
    try:
        context = command.make_context(program, list(argv), max_content_width=120, allow_extra_args=True)
    except click.NoSuchOption as error:
        known = [flag for option in options for flag in (*option.opts, *option.secondary_opts)]
        raise InvalidSettings(f"{error.option_name} is not a flag{_nearest(error.option_name, known)}") from None
    except click.UsageError as error:
        raise InvalidSettings(error.format_message()) from None
    except click.exceptions.Exit as request:
        raise SystemExit(request.exit_code) from None
    if context.args:
        raise InvalidSettings(f"{context.args[0]} is not a flag")
    return {name: value for name, value in context.params.items() if value is not None}


def _option(name: str, field: FieldInfo) -> click.Option:
    kind = _kind(field)
    metavar = "CHOICE" if _choices(kind) else {int: "NUMBER", float: "NUMBER", str: "TEXT"}.get(kind, "LIST")
    default = field.get_default(call_default_factory=True)
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = "left out" if default in (None, "") else getattr(default, "value", default)
    end = "required" if field.is_required() else f"default: {str(shown).lower() if kind is bool else shown}"
    text = "; ".join(filter(None, (field.description, _allowed(field), end)))
    flags = f"{_flag(name)}/{_flag(f'no_{name}')}" if kind is bool else _flag(name)
    return click.Option([name, flags], default=None, help=text, metavar=None if kind is bool else metavar)


def _sentence(settings_class: type[Settings], error: ValidationError, written: Callable[[str], str]) -> str:
    """A sentence that says what is wrong with the first bad value."""
    details = error.errors()[0]
    name, kind = str(details["loc"][0]), details["type"].partition("_")[0]
    if name not in settings_class.named():
        return f"{name} is not a setting{_nearest(name, settings_class.named())}"
    if kind == "missing":
        return f"{written(name)} is missing; give it, or set {settings_class.variable(name)}"
    allowed = _KINDS.get(kind) or _allowed(settings_class.named()[name]) or details["msg"]
    return f"{written(name)} is {details['input']!r}; it must be {allowed}"


def _allowed(field: FieldInfo) -> str:
    """Completes "it must be ...": the choices, the bounds or the constraint of a field; empty if it has none."""
    if choices := _choices(_kind(field)):
        return f"one of {', '.join(choices)}"
    if (above := next((each.gt for each in field.metadata if hasattr(each, "gt")), None)) is not None:
        return f"above {above}"
    at_least = next((each.ge for each in field.metadata if hasattr(each, "ge")), None)
    at_most = next((each.le for each in field.metadata if hasattr(each, "le")), None)
    if at_least is not None:
        return f"at least {at_least}" if at_most is None else f"between {at_least} and {at_most}"
    return next((each.allowed for each in field.metadata if isinstance(each, Constraint)), "")


def _kind(field: FieldInfo) -> Any:
    """The type of a field, without `None`."""
    if get_origin(field.annotation) in (Union, UnionType):
        return next(part for part in get_args(field.annotation) if part is not NoneType)
    return field.annotation


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [str(choice.value) for choice in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest one is {close[0]}" if close else ""
