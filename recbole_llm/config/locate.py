"""Where a dataset's atomic files lie, and whether the columns to load exist. Nothing is ever downloaded."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recbole_llm.errors import DataError
from recbole_llm.paths import dataset_atomic_dir, properties_dir
from recbole_llm.registry import did_you_mean

PACKAGED = "ml-100k"  # RecBole carries its interactions and insists on reading them from there


def recbole_dir() -> Path:
    """Folder of the installed RecBole package, found without importing it."""
    spec = find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("recbole")
    return Path(next(iter(spec.submodule_search_locations)))


def available_datasets(data_path: str | Path) -> list[str]:
    """Names of the datasets that can be run: folders ``<name>/`` with ``<name>*.inter``, and the packaged one."""
    found = {PACKAGED}
    for root in (Path(data_path), dataset_atomic_dir()):
        if root.is_dir():
            found |= {d.name for d in root.iterdir() if d.is_dir() and any(d.glob(f"{d.name}*.inter"))}
    return sorted(found)


def locate_dataset(dataset: str, data_path: str | Path, benchmark_filename: list[str] | None = None) -> Path:
    """Folder of a dataset's atomic files: RecBole's for ml-100k, else ``data_path/<dataset>``, else the shipped one.

    Args:
        dataset: name of the dataset, which its files start with.
        data_path: folder of dataset folders.
        benchmark_filename: names of pre-split interaction files, looked for in the place of ``<dataset>.inter``.

    Raises:
        DataError: if the interaction files are not there; the message tells where it looked and what exists.
    """
    parts = [f"{dataset}.{part}.inter" for part in benchmark_filename or []] or [f"{dataset}.inter"]
    if dataset == PACKAGED:
        places = [recbole_dir() / "dataset_example" / dataset]
    else:
        places = [Path(data_path) / dataset, dataset_atomic_dir() / dataset]
    for place in places:
        if all((place / part).is_file() for part in parts):
            return place.resolve()
    there = available_datasets(data_path)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is not None and folder == places[0]:
        raise DataError(f"dataset '{dataset}': no file {' or '.join(parts)} in {folder.resolve()}; put it there")
    hint = _how_to_make(dataset) or did_you_mean(dataset, there)
    raise DataError(
        f"dataset '{dataset}' not found: looked for {parts[0]} in {' and '.join(str(p.resolve()) for p in places)}"
        f"{hint or '; set data_path to the folder of dataset folders'} (datasets here: {', '.join(there)})"
    )


def _how_to_make(dataset: str) -> str:
    """The command that makes a public dataset, which the first line of its settings says; else nothing."""
    file = properties_dir() / "dataset" / f"{dataset}.yaml"
    if not file.is_file():
        return ""
    command = re.search(r"recbole-llm convert \S+ --source \S+[^,.\s]", file.read_text(encoding="utf-8"))
    return f"; make it with: {command[0]}" if command else ""


def columns(file: Path, separator: str) -> list[str]:
    """Column names in the header of an atomic file (``name:type`` fields).

    Raises:
        DataError: if the file is empty or its header has no types.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header = lines.readline().rstrip("\r\n")
    fields = header.split(separator)
    if not all(len(field.split(":")) == 2 for field in fields):
        raise DataError(f"{file}: the first line must name columns as 'name:type', separated by {separator!r}")
    return [field.split(":")[0] for field in fields]


def header_load_col(folder: Path, dataset: str, settings: Mapping[str, Any]) -> list[str]:
    """Those of the user, item, rating and time columns that ``<dataset>.inter`` has: the default of what to load."""
    files = sorted(folder.glob(f"{dataset}*.inter"))
    present = columns(files[0], settings["field_separator"])
    wanted = [settings[field] for field in ("USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD")]
    return [column for column in wanted if column in present]


def check_columns(folder: Path, dataset: str, settings: Mapping[str, Any]) -> None:
    """Refuse a ``load_col`` whose files or columns do not exist: RecBole would ignore them and fail later.

    Raises:
        DataError: naming the missing file, or the missing column and those that exist.
    """
    parts = settings.get("benchmark_filename") or []
    for suffix, wanted in (settings.get("load_col") or {}).items():
        names = (
            [f"{dataset}.{part}.inter" for part in parts] if suffix == "inter" and parts else [f"{dataset}.{suffix}"]
        )
        for name in names:
            file = folder / name
            if not file.is_file():
                raise DataError(f"load_col asks for {name}, which does not exist in {folder}; add it or set load_col")
            if wanted == "*":
                continue
            present = columns(file, settings["field_separator"])
            for column in [wanted] if isinstance(wanted, str) else wanted:
                if column not in present:
                    raise DataError(
                        f"column '{column}' is not in {file} (columns: {', '.join(present)}); change load_col, or the "
                        "setting that asks for it, such as selected_features"
                    )
