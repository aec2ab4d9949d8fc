"""The binary conversion of a text feature file: made once, valid for exactly the content it was made from.

A conversion records the BLAKE2b digest of the text it was parsed from, and the text file's stat (size, modification and
change time, inode). While the stat is the same the content is: no user program can set the change time, so that even a
rewrite that restores size and modification time shows. When the stat differs the digest decides: the same content
(a copy, a fresh checkout) keeps the conversion, any other content makes it anew.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from recbole_llm.data.feature_file import check_rows, read_feature, save_feature
from recbole_llm.data.feature_text import file_digest, parse_feature_text
from recbole_llm.errors import FeatureError

# A change within one tick of the file system's clock leaves the same stat behind; kernels tick every 1 to 10 ms
_TICK_S = 0.05
_FORMAT = "1"  # raised when the parser changes what it reads

Table = tuple[list[str], np.ndarray, dict[str, str]]


def open_text_feature(path: Path, id_field: str, cache_dir: Path | None = None) -> Table:
    """Open a text feature through its conversion, which is made or renewed where needed.

    Args:
        path: existing text suffix file.
        id_field: the field that its first column must be.
        cache_dir: folder of the conversion; beside the file, or else in the user's cache folder, where None.
    Returns:
        tokens, rows as a read-only memory map (an array where no folder is writable) [n, F] float32, and metadata.
    Raises:
        FeatureError: the text file is malformed.
    """
    places = _cache_paths(path, cache_dir)
    stat = _settled_stat(path)
    digest = None
    for place in places:
        if (table := _read_conversion(place, id_field)) is None:
            continue
        if stat and table[2]["source_stat"] == stat:
            return table
        digest = digest or file_digest(path)
        if table[2]["source_blake2b"] == digest:
            return _store([place], *table[:2], id_field, stat, digest)  # so that the next load need not read the text
    text = parse_feature_text(path, id_field)
    check_rows(path, text.tokens, text.embedding, id_field)  # names the text file rather than the conversion
    return _store(places, text.tokens, text.embedding, id_field, stat, text.digest)


def user_cache_dir() -> Path:
    """Folder for conversions whose text file lies in a folder that is not writable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recbole_llm" / "features"


def _cache_paths(path: Path, cache_dir: Path | None) -> list[Path]:
    # files of the same name from different folders must not share a conversion in a common folder
    keyed = f"{path.name}.{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}.cache.safetensors"
    if cache_dir is not None:
        return [cache_dir / keyed]
    return [path.with_name(f".{path.name}.cache.safetensors"), user_cache_dir() / keyed]


def _settled_stat(path: Path) -> str:
    """The file's stat as text, or '' where a later change could leave the same one behind."""
    state = path.stat()
    if 0 <= time.time() - state.st_ctime < _TICK_S:
        time.sleep(_TICK_S)
        state = path.stat()
    # file systems that keep whole seconds, and clocks that run ahead (network shares), cannot tell
    if state.st_ctime_ns % 1_000_000_000 == 0 or time.time() - state.st_ctime < _TICK_S:
        return ""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_dev} {state.st_ino}"


def _read_conversion(place: Path, id_field: str) -> Table | None:
    try:
        # each conversion was checked when it was written, and reading it through would double the time of a load
        tokens, embedding, metadata = read_feature(place, verify=False)
    except FeatureError:  # none yet, or damaged: it is ours to make again
        return None
    known = metadata.get("source_format") == _FORMAT and {"source_stat", "source_blake2b"} <= metadata.keys()
    return (tokens, embedding, metadata) if known and metadata["id_field"] == id_field else None


def _store(
    places: list[Path], tokens: list[str], embedding: np.ndarray, id_field: str, stat: str, digest: str
) -> Table:
    metadata = {"source_format": _FORMAT, "source_stat": stat, "source_blake2b": digest}
    for place in places:
        try:
            save_feature(place, tokens, embedding, id_field, metadata)
        except OSError:  # read-only or full: try the next folder
            continue
        return read_feature(place, verify=False)
    return tokens, embedding, metadata | {"id_field": id_field}
