"""The conversion of a text feature: made once, and made again exactly when the content has changed."""

import os
import time
from pathlib import Path

import pytest

from recbole_llm.data import feature_cache
from recbole_llm.data.feature_store import open_feature

ROWS = {"i1": [1.0, 2.0], "i2": [3.0, 4.0], "i3": [5.0, 9.0]}


def write_text(path: Path, rows: dict[str, list[float]]) -> Path:
    lines = [f"{token}\t{' '.join(map(repr, row))}" for token, row in rows.items()]
    path.write_text("\n".join(["item_id:token\temb:float_seq", *lines]) + "\n")
    return path


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Grows by one path at every parse."""
    calls: list[Path] = []
    parse = feature_cache.parse_feature_text

    def counted(path: Path, id_field: str):
        calls.append(path)
        return parse(path, id_field)

    monkeypatch.setattr(feature_cache, "parse_feature_text", counted)
    return calls


def test_converted_once(tmp_path: Path, parses: list[Path]):
    path = write_text(tmp_path / "d.emb", ROWS)
    first, again = (open_feature(path, id_field="item_id") for _ in range(2))
    assert len(parses) == 1
    assert first.embedding.tolist() == again.embedding.tolist() == list(ROWS.values())
    assert sorted(file.name for file in tmp_path.iterdir()) == [".d.emb.cache.safetensors", "d.emb"]


def test_same_size_and_time_but_other_content_is_seen(tmp_path: Path, parses: list[Path]):
    path = write_text(tmp_path / "d.emb", ROWS)
    before = path.stat()
    open_feature(path, id_field="item_id")
    write_text(path, ROWS | {"i1": [1.0, 8.0]})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert open_feature(path, id_field="item_id").embedding[0].tolist() == [1, 8]
    assert len(parses) == 2


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Grows by one path whenever a text file is read through to compare its content."""
    calls: list[Path] = []
    digest = feature_cache.file_digest
    monkeypatch.setattr(feature_cache, "file_digest", lambda path: calls.append(path) or digest(path))
    return calls


def test_untouched_file_is_not_read(tmp_path: Path, hashes: list[Path]):
    path = write_text(tmp_path / "d.emb", ROWS)
    for _ in range(3):
        open_feature(path, id_field="item_id")
    assert not hashes


def test_touched_file_is_hashed_once_and_not_parsed(tmp_path: Path, parses: list[Path], hashes: list[Path]):
    path = write_text(tmp_path / "d.emb", ROWS)
    open_feature(path, id_field="item_id")
    os.utime(path, (1, 1))
    for _ in range(3):
        assert open_feature(path, id_field="item_id").embedding.tolist() == list(ROWS.values())
    assert (len(parses), len(hashes)) == (1, 1)


def test_a_clock_that_cannot_tell_is_not_trusted(tmp_path: Path, parses, hashes, monkeypatch):
    path = write_text(tmp_path / "d.emb", ROWS)
    behind = time.time() - 100  # the file's clock runs ahead of ours, as on a network share
    monkeypatch.setattr(feature_cache.time, "time", lambda: behind)
    for _ in range(3):
        open_feature(path, id_field="item_id")
    assert (len(parses), len(hashes)) == (1, 2)


def test_damaged_conversion_is_made_again(tmp_path: Path, parses: list[Path]):
    path = write_text(tmp_path / "d.emb", ROWS)
    open_feature(path, id_field="item_id")
    cache = tmp_path / ".d.emb.cache.safetensors"
    cache.write_bytes(cache.read_bytes()[:-3])
    assert open_feature(path, id_field="item_id").embedding.tolist() == list(ROWS.values())
    assert len(parses) == 2


def test_cache_dir_keeps_files_of_the_same_name_apart(tmp_path: Path, parses: list[Path]):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = write_text(tmp_path / "a" / "d.emb", ROWS), write_text(tmp_path / "b" / "d.emb", {"i1": [6.0]})
    for _ in range(2):
        assert open_feature(one, id_field="item_id", cache_dir=tmp_path / "c").embedding[0].tolist() == [1, 2]
        assert open_feature(two, id_field="item_id", cache_dir=tmp_path / "c").embedding[0].tolist() == [6]
    assert len(parses) == 2
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["d.emb"]


def test_falls_back_to_the_user_cache_and_then_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parses):
    path = write_text(tmp_path / "d.emb", ROWS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    refused = [tmp_path]
    save_file = feature_cache.save_feature

    def save_unless_refused(place: Path, *args: object) -> None:
        if place.parent in refused:
            raise PermissionError(13, "Permission denied", str(place))
        save_file(place, *args)

    monkeypatch.setattr(feature_cache, "save_feature", save_unless_refused)
    for _ in range(2):
        assert open_feature(path, id_field="item_id").embedding.tolist() == list(ROWS.values())
    assert len(parses) == 1 and len(list((tmp_path / "home" / "recbole_llm" / "features").iterdir())) == 1
    refused.append(tmp_path / "home" / "recbole_llm" / "features")
    path.write_text(path.read_text().replace("1.0", "1.5"))
    assert open_feature(path, id_field="item_id").embedding[0].tolist() == [1.5, 2]
