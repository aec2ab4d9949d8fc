"""Finds the runs of a report: folders of comparisons and folders of single runs, as records with per-user metrics."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from recbole_llm.comparison.record import (
    ABOUT_FILE,
    OK,
    RECORDS_FILE,
    About,
    Record,
    RunResult,
    per_user_file,
    read_about,
    read_records,
)
from recbole_llm.errors import DataError

RESULT_FILE, CONFIG_FILE, PER_USER_FILE = "result.json", "config.yaml", "per_user.parquet"
LONGEST_LABEL = 60

# settings that never tell two rows of a table apart: the seed, and where things lie, run and are logged
NO_DIFFERENCE = frozenset(
    """
    seed data_path run_dir checkpoint_dir dataset_save_path dataloaders_save_path save_dataset save_dataloaders
    config_files gpu_id use_gpu device worker local_rank single_spec show_progress state verbose log_wandb wandb_project
    resume
    """.split()
)


@dataclass(frozen=True)
class Loaded:
    """The runs of a report.

    Attributes:
        tables: (title of the comparison, dataset, protocol) -> its records, in the order of the folders; of two with
            one key the later, but a result before a failure. Comparisons of other titles are other tables, whose rows
            may be called alike; what has no title belongs together.
        abouts: the same key -> what the comparison that it comes from wants said; the latest one's.
        folder: where ``comparison.record.per_user_file`` finds the per-user metrics.
        without_users: (dataset, protocol) whose runs came without per-user metrics, as those of click models do.
        notes: sentences on what was left out.
    """

    tables: Mapping[tuple[str, str, str], tuple[Record, ...]]
    abouts: Mapping[tuple[str, str, str], About]
    folder: Path
    without_users: frozenset[tuple[str, str]]
    notes: tuple[str, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """Those of all tables."""
        return tuple(record for records in self.tables.values() for record in records)


@contextmanager
def loaded(folders: Sequence[str | Path]) -> Iterator[Loaded]:
    """The runs of some folders, their per-user files linked together in a temporary folder while the context lasts.

    Args:
        folders: of a comparison (``records.jsonl``), of one run (``result.json``), or of run folders.
    Raises:
        DataError: naming a folder that is missing or holds no runs, a broken record, or a per-user file that is missing
            while other runs of the same table have theirs.
    """
    by_folder = {Path(folder): _entries(Path(folder)) for folder in folders}
    entries = [entry for found in by_folder.values() for entry in found]
    notes = [note for folder in folders for note in _notes(Path(folder))]
    labels = _labels([record for record, _ in entries if not record.label], {r.label for r, _ in entries if r.label})
    abouts: dict[tuple[str, str, str], About] = {}
    by_key: dict[tuple, tuple[Record, Path | None]] = {}
    for folder, found in by_folder.items():
        about = read_about(folder) if (folder / ABOUT_FILE).is_file() else None
        for record, path in found:
            if not record.label:
                record = replace(record, label=labels[_settings_key(record.result)])
            key = (about.title if about else "", *record.key)
            if about:
                abouts[key[:3]] = about
            if record.status == OK or key not in by_key:
                by_key[key] = record, path
    with TemporaryDirectory(prefix="recbole-llm-report-") as temporary:
        tables: dict[tuple[str, str, str], list[Record]] = {}
        for k, (key, entry) in enumerate(by_key.items()):
            tables.setdefault(key[:3], []).append(_link(Path(temporary), k, *entry))
        made = {key: tuple(records) for key, records in tables.items()}
        yield Loaded(made, abouts, Path(temporary), _without_users(by_key.values()), tuple(notes))


def _entries(folder: Path) -> list[tuple[Record, Path | None]]:
    """Records of a folder, without a label where it must yet be made up, and their per-user files."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder of a comparison, or one that holds run folders")
    if (folder / RECORDS_FILE).is_file():
        try:
            records = read_records(folder)
        except DataError as error:
            raise DataError(f"{folder / RECORDS_FILE}: {error}") from None
        if not records:
            raise DataError(f"{folder / RECORDS_FILE} is empty; run the comparison first")
        return [(record, per_user_file(folder, record) if record.result else None) for record in records]
    files = [folder / RESULT_FILE] if (folder / RESULT_FILE).is_file() else sorted(folder.glob(f"*/{RESULT_FILE}"))
    if not files:
        raise DataError(
            f"{folder} holds neither {RECORDS_FILE} nor run folders with a {RESULT_FILE}; name the folder of a "
            "comparison, or the run_dir of finished runs"
        )
    return [(_record(file), file.parent / PER_USER_FILE) for file in files]


def _record(file: Path) -> Record:
    try:
        result = RunResult.from_json(file.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} is not the record of a run ({error}); run it again, or remove its folder") from None
    return Record(
        label="",
        model=result.model,
        dataset=result.dataset,
        protocol=result.protocol,
        seed=result.seed,
        status=OK,
        config_hash=result.config_hash,
        code_hash=result.code_hash,
        result=result,
    )


def _notes(folder: Path) -> list[str]:
    if (folder / RECORDS_FILE).is_file():
        return []
    n = sum(not (file.parent / RESULT_FILE).is_file() for file in folder.glob(f"*/{CONFIG_FILE}"))
    return [f"{n} run folder(s) of {folder.name} without a {RESULT_FILE} (unfinished or failed) were left out"] * bool(
        n
    )


def _settings_key(result: RunResult) -> tuple[str, str, str, str]:
    """The same for all seeds of one setting."""
    return result.dataset, result.protocol, result.model, json.dumps(_settings(result), sort_keys=True)


def _settings(result: RunResult) -> dict[str, object]:
    return dict(_flat({k: v for k, v in result.config.items() if k not in NO_DIFFERENCE}))


def _flat(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _labels(records: Sequence[Record], taken: set[str]) -> dict[tuple, str]:
    """A label for every setting: the model, and what its settings differ in where there are several.

    Args:
        taken: labels of comparisons, which no single run may slip into.
    """
    settings = {_settings_key(record.result): _settings(record.result) for record in records}
    labels = {}
    for key, own in settings.items():
        same_model = [other for k, other in settings.items() if k[:3] == key[:3]]
        names = sorted({name for other in same_model for name in other})
        differ = [n for n in names if len({json.dumps(o.get(n, "absent"), sort_keys=True) for o in same_model}) > 1]
        parts = ", ".join(f"{n}={_text(own[n])}" for n in differ if n in own)
        label = f"{key[2]} ({parts})" if parts else key[2]
        if len(label) > LONGEST_LABEL:
            label = f"{key[2]} (settings {hashlib.sha256(key[3].encode()).hexdigest()[:8]})"
        labels[key] = f"{label} (run folder)" if label in taken else label
    return labels


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _link(temporary: Path, k: int, record: Record, path: Path | None) -> Record:
    """Link the per-user file under a name of its own: folders of several comparisons may share run names."""
    if record.result is None:
        return record
    record = replace(record, result=replace(record.result, run_folder=f"{k}-{record.run_name}"))
    link = per_user_file(temporary, record)
    link.parent.mkdir(exist_ok=True)
    if path is not None and path.is_file():
        link.symlink_to(path.resolve())
    return record


def _without_users(entries) -> frozenset[tuple[str, str]]:
    has: dict[tuple[str, str], list[tuple[bool, Record, Path]]] = {}
    for record, path in entries:
        if record.status == OK and path is not None:
            has.setdefault(record.key[:2], []).append((path.is_file(), record, path))
    for found in has.values():
        if any(there for there, *_ in found):
            for there, record, path in found:
                if not there:
                    raise DataError(
                        f"{path} is missing: copy it from where {record.label or record.model}, seed {record.seed}, "
                        "was run, or run it again"
                    )
    return frozenset(key for key, found in has.items() if not any(there for there, *_ in found))
