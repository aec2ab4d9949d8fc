"""Finds the record of one run: in its folder, or among the lines of a comparison."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment.record import RunResult
from recbole_llm.experiment.run import PER_USER_FILE, RESULT_FILE

RECORDS_FILE, PER_USER_FOLDER = "records.jsonl", "per_user"  # of a comparison's folder
_CHOICES = ("label", "seed", "protocol", "dataset")


@dataclass(frozen=True)
class Recorded:
    """A run to make again.

    Attributes:
        label: its row in a comparison, else its model.
        result: its record.
        per_user: where its per-user metrics should lie.
    """

    label: str
    result: RunResult
    per_user: Path


def find_run(
    path: str | Path,
    *,
    label: str | None = None,
    seed: int | None = None,
    protocol: str | None = None,
    dataset: str | None = None,
) -> Recorded:
    """A record by the place where it lies.

    Args:
        path: run folder, its result.json, the folder of a comparison, or a file with a record a line.
        label, seed, protocol, dataset: which of several records; all that are not None must fit.
    Raises:
        DataError: when there is no such file, it holds no records, or the chosen run had failed.
        ConfigError: when not exactly one record fits.
    """
    path = Path(path)
    names = [RESULT_FILE, RECORDS_FILE]
    file = next((path / name for name in names if (path / name).is_file()), path)
    if not file.is_file():
        raise DataError(f"{path} is neither a record nor a folder with {' or '.join(names)}; name a run folder")
    text = file.read_text(encoding="utf-8")
    lines = [text] if file.suffix == ".json" else text.splitlines()
    entries = _latest([_entry(line, file) for line in lines if line.strip()])
    wanted = {k: v for k, v in zip(_CHOICES, (label, seed, protocol, dataset), strict=True) if v is not None}
    fitting = [e for e in entries if all(e[key] == value for key, value in wanted.items())]
    if len(fitting) != 1:
        shown = fitting or entries
        listed = "; ".join(" ".join(f"{key}={e[key]}" for key in _CHOICES) for e in shown[:6])
        more = f"; and {len(shown) - 6} more" if len(shown) > 6 else ""
        way_out = "choose one by --label, --seed, --protocol and --dataset"
        raise ConfigError(f"{len(fitting)} records of {file} fit; {way_out} ({listed or 'it is empty'}{more})")
    entry = fitting[0]
    if entry["result"] is None:
        raise DataError(f"the run of {entry['label']}, seed {entry['seed']}, has no result: {entry['reason']}")
    result = RunResult(**entry["result"])
    folder = Path(result.run_folder)
    places = [file.parent / PER_USER_FOLDER / f"{folder.name}.parquet", folder / PER_USER_FILE]
    if file.name == RESULT_FILE:
        places = [file.parent / PER_USER_FILE]
    return Recorded(entry["label"], result, next((place for place in places if place.is_file()), places[0]))


def _entry(line: str, file: Path) -> dict[str, Any]:
    """A line that holds a run's record, or a comparison's record around one."""
    try:
        fields = json.loads(line)
        if "result" not in fields:
            fields = {key: fields[key] for key in _CHOICES[1:]} | {"label": fields["model"], "result": fields}
        if fields["result"] is not None:
            RunResult(**fields["result"])
        return {"reason": ""} | fields
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file} holds a line that is no record of a run ({error}); name another file") from None


def _latest(entries: list[dict]) -> list[dict]:
    """The later of two records of one run."""

    def key(entry: dict) -> tuple:
        settings = entry["result"]["config_hash"] if entry["result"] else ""
        return (*(entry[choice] for choice in _CHOICES), "" if "status" in entry else settings)

    return list({key(entry): entry for entry in entries}.values())
