"""What to type to run this program again."""

import shutil
import sys
from pathlib import Path


def program() -> str:
    """`sybil` if the shell finds it, else its path: from here if it lies below."""
    if shutil.which("sybil"):
        return "sybil"
    path = Path(sys.executable).parent / "sybil"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
