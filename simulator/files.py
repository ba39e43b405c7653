"""Files that people name: refused in one sentence if they cannot be read or written."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from sybil_engine.core.errors import InvalidRequest

_BROKEN = (OSError, ValueError, LookupError, TypeError, RecursionError, EOFError, zipfile.BadZipFile, zlib.error)


class UnusableFile(InvalidRequest):
    """A file is missing, cannot be read or written, or holds something else."""


def check_writable(file: Path) -> None:
    """Refuse a file that cannot be written, before an hour's work is lost.

    Raises:
        UnusableFile: its folder is missing or may not be written to, or it is a folder itself.
    """
    if file.is_dir():
        raise UnusableFile(f"{file} is a folder; name a file to write to")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UnusableFile(f"{file} cannot be written; name a file in a folder that can be")


@contextmanager
def reading(file: Path, kind: str, writer: str) -> Iterator[None]:
    """Name what is wrong with the file that the block reads, and the command that writes such a file.

    Raises:
        UnusableFile: the file is missing, cannot be read, or holds something else.
    """
    try:
        yield
    except FileNotFoundError:
        raise UnusableFile(f"no {kind} {file}; write one with `{writer} {file}`") from None
    except _BROKEN as error:
        raise UnusableFile(
            f"{file} is not a {kind} that can be used ({_sentence(error)}); check the path, or write another with "
            f"`{writer} FILE`"
        ) from error


def _sentence(error: Exception) -> str:
    """What is wrong with a file, in a few words."""
    match error:
        case ValidationError():
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        case KeyError():
            return f"it lacks {error.args[0]}"
        case OSError(strerror=str(words)):
            return words
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
