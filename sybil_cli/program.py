"""What to type to run this program again."""

import os
import shutil
import sys
from pathlib import Path


def program() -> str:
    """`sybil` if the shell finds it, else its path from here."""
    if shutil.which("sybil"):
        return "sybil"
    return os.path.relpath(Path(sys.executable).parent / "sybil")
