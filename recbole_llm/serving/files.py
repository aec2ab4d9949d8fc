"""Recommendations as files and as text."""

import json
from pathlib import Path

import pandas as pd

from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import ConfigError

FORMATS = (".parquet", ".csv", ".json", ".jsonl")


def check_format(path: Path) -> None:
    """Raise ConfigError for a name that does not tell the format."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: recommendations are written as {', '.join(FORMATS)}, not as '{path.suffix}'")


def check_embeddings_file(path: Path) -> None:
    """Raise ConfigError for a file that is not called as feature files are."""
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: embeddings are written as <dataset>.<feature>.safetensors; call the file so")


def write_recommendations(path: Path, frame: pd.DataFrame) -> None:
    """Write recommendations, atomically, in the format that the name's ending tells.

    ``.parquet`` and ``.csv`` have the frame's columns, which ``compare --import`` reads; ``.json`` is a list of
    ``{"user": ..., "items": [{"item": ..., "title": ..., "score": ...}]}``, best first, ``.jsonl`` one of them a line.

    Args:
        path: its folder is made.
        frame: see :meth:`~recbole_llm.serving.recommender.Recommender.recommend`.
    Raises:
        ConfigError: for another ending.
    """
    check_format(path)
    kind = path.suffix.lower()
    with atomic_writer(path) as file:
        if kind == ".parquet":
            frame.to_parquet(file, index=False)
        elif kind == ".csv":
            file.write(frame.to_csv(index=False, lineterminator="\n").encode())
        else:
            lines = _json_lines(frame)
            text = "\n".join(lines) if kind == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
            file.write((text + "\n").encode())


def _json_lines(frame: pd.DataFrame) -> list[str]:
    names = [name for name in ("item", "title", "score") if name in frame]
    # the shortest decimal number that is this float32: 0.1, not 0.10000000149011612
    columns = [frame["score"].map(lambda x: float(str(x))) if name == "score" else frame[name] for name in names]
    lists: dict[str, list] = {}
    for user, *values in zip(frame["user"], *columns, strict=True):
        lists.setdefault(user, []).append(dict(zip(names, values, strict=True)))
    return [json.dumps({"user": user, "items": items}, ensure_ascii=False) for user, items in lists.items()]


def as_text(frame: pd.DataFrame) -> str:
    """A table a user, to be read."""
    blocks = []
    for user, own in frame.groupby("user", sort=False):
        width = max(map(len, own["item"]))
        lines = [f"user {user}"]
        for rank, item, score, title in zip(
            own["rank"], own["item"], own["score"], own.get("title", own["rank"].map(lambda _: None)), strict=True
        ):
            lines.append(f"{rank:>4}  {item:<{width}}  {score:>11.5g}  {title or ''}".rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
