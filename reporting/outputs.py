"""Files and folders that a run will write: refused before it starts, so that no result is lost at its end."""

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from sybil_engine.core.errors import InvalidSettings


def check_file(file: Path, flag: str) -> None:
    """Refuse a file that cannot be written; one that exists keeps its content until then.

    Args:
        flag: that named it.

    Raises:
        InvalidSettings: its folder is missing or may not be written to, or it is a folder itself.
    """
    try:
        with file.open("a") if file.exists() else TemporaryFile(dir=file.absolute().parent):
            pass
    except OSError as error:
        raise _unwritable(flag, file, error, "a file in a folder that can be") from None


def check_report_folder(folder: Path, flag: str) -> None:
    """Make the folder of a report, and see that plots can be drawn and written into it.

    Raises:
        InvalidSettings: they cannot.
    """
    if find_spec("matplotlib") is None:
        raise InvalidSettings(
            f"{flag} needs the package matplotlib, which is not installed; install it with "
            f"`pip install sybil-engine[bench]`, or leave {flag} out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(flag, folder, error, "a folder that can be") from None


def _unwritable(flag: str, path: Path, error: OSError, instead: str) -> InvalidSettings:
    return InvalidSettings(f"{flag} {path} cannot be written ({error.strerror}); name {instead}")
