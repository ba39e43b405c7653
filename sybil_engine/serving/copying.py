"""Copies between a dataclass and the proto message that has fields of the same names."""

from dataclasses import fields
from typing import Any, TypeVar

from google.protobuf.message import Message

MessageType = TypeVar("MessageType", bound=Message)
Value = TypeVar("Value")


def to_message(kind: type[MessageType], value: object, **given: Any) -> MessageType:
    """A message with the value's fields, except those that are given."""
    return kind(**given, **{name: getattr(value, name) for name in kind.DESCRIPTOR.fields_by_name if name not in given})


def to_value(kind: type[Value], message: Message, **given: Any) -> Value:
    """A dataclass with the message's fields, except those that are given. A field that is not set keeps its default."""
    copied = {}
    for name in (each.name for each in fields(kind) if each.name not in given):  # type: ignore[arg-type]
        field = message.DESCRIPTOR.fields_by_name[name]
        if not field.has_presence or message.HasField(name):
            copied[name] = tuple(getattr(message, name)) if field.is_repeated else getattr(message, name)
    return kind(**given, **copied)
