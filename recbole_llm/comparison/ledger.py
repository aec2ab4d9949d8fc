"""The records of a comparison's folder: those of its plan, which reports show, and others, which may be wanted again.

``records.jsonl`` holds what the last command's plan has, nothing stale; ``other_records.jsonl`` the finished runs of
rows, protocols or settings that it has not. A run whose code or data have changed is forgotten.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from recbole_llm.comparison.plan import Job
from recbole_llm.comparison.record import OK, OTHERS_FILE, Record, read_records, write_records
from recbole_llm.comparison.worker import blank_record
from recbole_llm.errors import RecBoleLLMError

_MUST_AGREE = ("config_hash", "code_hash", "data_hash", "grid")


def key_of(job: Job) -> tuple[str, str, str, int]:
    """The key of the record that the job will have."""
    return job.dataset, job.protocol, job.label, job.seed


def valid_records(jobs: Sequence[Job], records: Iterable[Record], out: Path) -> dict[int, Record]:
    """By id() of the job, the finished records that hold: their settings, grid, code and data are the current ones."""
    return _sorted_out(jobs, records, out)[0]


def _sorted_out(jobs: Sequence[Job], records: Iterable[Record], out: Path) -> tuple[dict[int, Record], list[Record]]:
    """Valid records by id() of their job, and the finished ones that no job wants but that are not outdated."""
    by_key: dict[tuple, list[Record]] = {}
    for record in records:
        if record.status == OK:
            by_key.setdefault(record.key, []).append(record)
    found: dict[int, Record] = {}
    others = {key: list(candidates) for key, candidates in by_key.items()}
    for job in jobs:
        candidates = by_key.get(key_of(job), [])
        if not candidates:
            continue
        try:
            now = blank_record(job, out)
        except RecBoleLLMError:
            continue
        fitting = [r for r in candidates if all(getattr(r, f) == getattr(now, f) for f in _MUST_AGREE)]
        if fitting:
            found[id(job)] = fitting[0]
        # same settings and not valid: the code or the data have changed
        others[key_of(job)] = [r for r in candidates if r.config_hash != now.config_hash]
    return found, [record for candidates in others.values() for record in candidates]


class Ledger:
    """What a folder knows of a plan's jobs.

    Args:
        out: the folder. jobs: of the plan, in the order of its table. more: records beside the plan's, imported ones.
    Attributes:
        valid: by id() of the job, the records that need not be made again.
    """

    def __init__(self, out: Path, jobs: Sequence[Job], more: Sequence[Record] = ()) -> None:
        self._out, self._jobs, self._more = out, list(jobs), list(more)
        known = [*read_records(out), *read_records(out, OTHERS_FILE)]
        self.valid, self._others = _sorted_out(jobs, known, out)
        self._records = {key_of(job): self.valid[id(job)] for job in jobs if id(job) in self.valid}
        imported = {record.key for record in more}
        self._others = [record for record in self._others if record.key not in imported]

    def add(self, record: Record) -> None:
        """Take a run's record, and write."""
        self._records[record.key] = record
        self.write()

    def write(self) -> list[Record]:
        """Write both files, atomically each; returns the plan's records, those there are, in its order."""
        if self._others or (self._out / OTHERS_FILE).is_file():
            write_records(self._out, self._others, OTHERS_FILE)
        records = [self._records[key] for key in map(key_of, self._jobs) if key in self._records]
        write_records(self._out, [*self._more, *records])
        return records
