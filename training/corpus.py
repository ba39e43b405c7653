"""The corpus: CPython 3.11's own standard library, file by file, in five splits."""

import hashlib
import json
import random
import sys
import sysconfig
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "tests", "more_tests", "last_tests", "left_out"]

PYTHON_VERSION = (3, 11)
LICENCE = "PSF-2.0 (Python Software Foundation License Version 2), (c) Python Software Foundation"

LEFT_OUT_BY_NAME = (
    "argparse",
    "bisect",
    "calendar",
    "configparser",
    "csv",
    "difflib",
    "fractions",
    "heapq",
    "shlex",
    "statistics",
    "textwrap",
    "uuid",
)
"""Well-known modules with docstrings and doctests; the built-in prompts are taken from these."""

LEFT_OUT_SEED = 311
LEFT_OUT_SHARE = 0.1

SKIPPED_FOLDERS = frozenset({"__pycache__", "lib-dynload", "site-packages"})
TEST_FOLDERS = frozenset({"idle_test", "test", "tests"})
TEST_SPLITS: tuple[Split, ...] = ("tests", "more_tests", "last_tests")
"""The library's own tests, a third at a time, since all of them would outweigh the library.

The drafter's own cycles use all of them.
"""

SKIPPED_PACKAGES = frozenset({"encodings", "pydoc_data", "__phello__"})
"""Generated character tables, the manual folded into string literals, and a frozen-module fixture."""

SKIPPED_FILES = frozenset({"html/entities.py"})
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
"""Files that differ from one installation of Python to the next."""


class CorpusMismatch(Exception):
    """The installed standard library is not the one that the manifest describes."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the corpus.

    Attributes:
        path: relative to the standard library, with forward slashes.
        module: the top-level module or package that it belongs to.
        split: what it is used for.
        text: its content.
    """

    path: str
    module: str
    split: Split
    text: str

    def described(self) -> dict[str, str | int]:
        """The file as the manifest lists it, its SHA-256 in hexadecimal."""
        data = self.text.encode()
        sha256 = hashlib.sha256(data).hexdigest()
        return {"path": self.path, "sha256": sha256, "bytes": len(data), "split": self.split}


@dataclass(frozen=True, slots=True)
class Corpus:
    """Every file, sorted by path."""

    files: tuple[SourceFile, ...]

    def of(self, split: Split) -> tuple[SourceFile, ...]:
        """Files of one split, sorted by path."""
        return tuple(file for file in self.files if file.split == split)

    def size_bytes(self, *splits: Split) -> int:
        """Size of some splits' files together."""
        return sum(len(file.text.encode()) for split in splits for file in self.of(split))

    def modules(self, split: Split) -> tuple[str, ...]:
        """Names of one split's top-level modules, sorted."""
        return tuple(sorted({file.module for file in self.of(split)}))


def read_corpus() -> Corpus:
    """Read the standard library of the running interpreter and split it by top-level module.

    Raises:
        CorpusMismatch: the interpreter is not Python 3.11.
    """
    if sys.version_info[:2] != PYTHON_VERSION:
        found = ".".join(map(str, sys.version_info[:2]))
        raise CorpusMismatch(
            f"the embedded pair is trained on Python 3.11's standard library, and this is Python {found}: "
            "run `python3.11 -m training`"
        )
    texts = _read_texts(Path(sysconfig.get_paths()["stdlib"]))
    tests = [path for path in sorted(texts) if not TEST_FOLDERS.isdisjoint(path.split("/")[:-1])]
    library = sorted(texts.keys() - set(tests))
    left_out = choose_left_out(library)
    tests = [path for path in tests if left_out.isdisjoint(_named_modules(path))]
    splits: dict[str, Split] = {path: "left_out" if _module_of(path) in left_out else "train" for path in library}
    for number, split in enumerate(TEST_SPLITS):
        splits |= dict.fromkeys(tests[number :: len(TEST_SPLITS)], split)
    return Corpus(tuple(SourceFile(path, _module_of(path), splits[path], texts[path]) for path in sorted(splits)))


def choose_left_out(paths: Collection[str]) -> frozenset[str]:
    """Choose a tenth of the modules: the named ones, then single-file modules drawn with a fixed seed.

    Packages are not drawn: a large one would remove most of a topic from the training split.
    """
    modules = {_module_of(path) for path in paths}
    drawn_count = round(len(modules) * LEFT_OUT_SHARE) - len(LEFT_OUT_BY_NAME)
    others = sorted(module for module in modules - set(LEFT_OUT_BY_NAME) if f"{module}.py" in paths)
    return frozenset(LEFT_OUT_BY_NAME) | set(random.Random(LEFT_OUT_SEED).sample(others, drawn_count))


def write_manifest(corpus: Corpus, path: Path) -> None:
    """Write which files were used for what, with their hashes and sizes in bytes."""
    manifest = {
        "source": "CPython standard library, as installed",
        "python_version": ".".join(map(str, sys.version_info[:3])),
        "licence": LICENCE,
        "modules_left_out": corpus.modules("left_out"),
        "bytes": {split: corpus.size_bytes(split) for split in get_args(Split)},
        "files": [file.described() for file in corpus.files],
    }
    path.write_text(json.dumps(manifest, indent=1) + "\n")


def check_manifest(corpus: Corpus, path: Path) -> None:
    """Compare the corpus with a manifest.

    Raises:
        CorpusMismatch: a file is missing, new, different, or in another split.
    """
    expected = {file["path"]: file for file in json.loads(path.read_text())["files"]}
    found = {file.path: file.described() for file in corpus.files}
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        raise CorpusMismatch(
            f"{len(different)} files differ from {path.name} (Python {sys.version.split()[0]} is running), "
            f"first {different[0]}: results will differ from the published ones; "
            "use the Python version named in the manifest, or go on with --any-stdlib"
        )


def _read_texts(root: Path) -> dict[str, str]:
    """Read every wanted file that is UTF-8, by relative path; of identical files only the first."""
    first_paths: dict[str, str] = {}
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if _is_wanted(relative):
            with suppress(UnicodeDecodeError):
                first_paths.setdefault(file.read_bytes().decode(), relative.as_posix())
    return {path: text for text, path in first_paths.items() if text.strip()}


def _is_wanted(relative: Path) -> bool:
    top = relative.parts[0]
    return (
        SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1])
        and top not in SKIPPED_PACKAGES
        and not top.startswith(SKIPPED_PREFIXES)
        and relative.as_posix() not in SKIPPED_FILES
    )


def _named_modules(path: str) -> set[str]:
    """Every module that a test file's path may be about: `test/test_csv.py` names csv."""
    words = path.removesuffix(".py").replace("/", "_").split("_")
    return {"_".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)}


def _module_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")
