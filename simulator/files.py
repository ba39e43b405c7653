"""Files that people name: refused in one sentence if they cannot be read."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from sybil_engine.core.errors import InvalidRequest

_BROKEN = (OSError, ValueError, LookupError, TypeError, RecursionError, EOFError, zipfile.BadZipFile, zlib.error)


class UnusableFile(InvalidRequest):
    """A file is missing, cannot be read, or holds something else."""


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
