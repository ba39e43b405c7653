"""Finding a model's folder: on this machine, in this package, or on the Hugging Face hub."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from sybil_engine.core.errors import ModelNotFound, NoSafetensors
from sybil_engine.core.references import EMBEDDED_DRAFT, EMBEDDED_TARGET
from sybil_engine.models.tokenizer import TOKENIZER_FILE

_EMBEDDED = {
    EMBEDDED_TARGET: Path(__file__).parent / "embedded" / "target",
    EMBEDDED_DRAFT: Path(__file__).parent / "embedded" / "draft",
}
_DESCRIPTION_FILES = ["*.json"]
_HUB_ERRORS = (OSError, ValueError, RuntimeError, HfHubHTTPError)


def find_folder(ref: str) -> Path:
    """Return the folder that holds a model, fetched from the hub if need be.

    Raises:
        ModelNotFound: there is none.
    """
    return _find(ref, [*_DESCRIPTION_FILES, "*.safetensors"], _has_safetensors)


def find_weights(ref: str) -> Path:
    """Return the folder that holds a model, its weights included.

    Raises:
        ModelNotFound, NoSafetensors: there is none.
    """
    folder = find_folder(ref)
    _require_safetensors(ref, folder)
    return folder


def find_config(ref: str) -> Path:
    """Return the folder that holds a model's config. Weights are not fetched, but a local folder must have them.

    Raises:
        ModelNotFound, NoSafetensors: there is none.
    """
    folder = _find(ref, _DESCRIPTION_FILES, lambda folder: (folder / "config.json").is_file())
    if ref in _EMBEDDED or Path(ref).expanduser().exists():
        _require_safetensors(ref, folder)
    return folder


def find_tokenizer(ref: str) -> Path:
    """Return the folder that holds a model's tokenizer, if it has one.

    Raises:
        ModelNotFound: there is no such model.
    """
    return _find(ref, _DESCRIPTION_FILES, lambda folder: (folder / TOKENIZER_FILE).is_file())


def _find(ref: str, files: list[str], complete: Callable[[Path], bool]) -> Path:
    """Return the folder that holds `ref`, fetched from the hub if need be."""
    if ref in _EMBEDDED:
        folder = _EMBEDDED[ref]
        if not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"the embedded model {ref!r} is not in {folder}; install the package with its data, or train it: "
                "see training/README.md"
            )
        return folder
    folder = Path(ref).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelNotFound(f"{ref} is a file; name the folder that holds config.json and the safetensors files")
    if ref.startswith(("/", ".", "~")) or ref.count("/") > 1:
        raise ModelNotFound(
            f"no folder {folder.absolute()}; check the path, or name a hub id such as openai-community/gpt2"
        )
    return _fetch(ref, files, complete)


def _fetch(ref: str, files: list[str], complete: Callable[[Path], bool]) -> Path:
    """Return the hub's snapshot: the one in the local hub cache if it is complete, else download it."""
    with suppress(*_HUB_ERRORS):
        folder = Path(snapshot_download(ref, allow_patterns=files, local_files_only=True))
        if complete(folder):
            return folder
    try:
        return Path(snapshot_download(ref, allow_patterns=files))
    except _HUB_ERRORS as error:
        raise ModelNotFound(
            f"no folder and no reachable hub model called {ref!r} ({first_line(error)}); check the name and the "
            "network, log in with `hf auth login` if it is gated, or download it and name its folder"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _require_safetensors(ref: str, folder: Path) -> None:
    if _has_safetensors(folder):
        return
    others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for path in folder.glob(pattern))
    found = f"only {', '.join(others)}" if others else "no weights at all"
    raise NoSafetensors(
        f"{ref} has no *.safetensors in {folder}, {found}; other formats can carry code and are not read: convert "
        "them with `model.save_pretrained(folder)`"
    )
