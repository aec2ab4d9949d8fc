"""Records of a comparison: what became of every run of its plan, and where its per-user metrics lie.

A comparison's folder holds ``records.jsonl`` (one line a run), ``per_user/<run>.parquet``, ``comparison.json`` (what
its report is to say) and, as long as nobody deletes them, the run folders themselves in ``runs/``. The first three are
all that a report needs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import DataError
from recbole_llm.experiment.record import RunResult

RECORDS_FILE, PER_USER_FOLDER, ABOUT_FILE = "records.jsonl", "per_user", "comparison.json"
OTHERS_FILE = "other_records.jsonl"  # finished runs that the folder's last plan has not, see ledger.py
OK, FAILED = "ok", "failed"


@dataclass(frozen=True)
class Record:
    """One run of a comparison.

    Attributes:
        label: row of the table. model, dataset, protocol, seed: what was run.
        status: "ok" or "failed"; reason: one sentence on a failure.
        chosen: the grid point that validation chose; tried: how many there were (0: no grid); failed_points: how many
            of them gave no result.
        grid: what it was chosen from: setting -> values, or their range as text after a search. grid_seconds: what the
            choice cost.
        config_hash, code_hash, data_hash: of the settings before the choice, of the code and of the files that the run
            depends on; the record is valid while they are the current ones.
        result: the run's own record; None after a failure.
    """

    label: str
    model: str
    dataset: str
    protocol: str
    seed: int
    status: str
    reason: str = ""
    chosen: dict = field(default_factory=dict)
    tried: int = 0
    failed_points: int = 0
    grid: dict = field(default_factory=dict)
    grid_seconds: float = 0.0
    config_hash: str = ""
    code_hash: str = ""
    data_hash: str = ""
    result: RunResult | None = None

    @property
    def searched(self) -> bool:
        """Whether a search of so many trials chose, from a space told in words, and not all points of a grid."""
        return any(isinstance(values, str) for values in self.grid.values())

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What a comparison has one record of."""
        return self.dataset, self.protocol, self.label, self.seed

    @property
    def run_name(self) -> str:
        """Name of the run folder, and of the per-user file."""
        return Path(self.result.run_folder).name if self.result else ""

    def to_json(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Record":
        """Raises: DataError for a line that is no record."""
        try:
            fields = json.loads(line)
            result = fields["result"]
            return cls(**fields | {"result": None if result is None else RunResult(**result)})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not a record of a comparison ({error}); make it anew with recbole-llm compare") from None


@dataclass(frozen=True)
class About:
    """What a report says of a comparison's tables: heading, remark, the row the others are tested against, on what.

    ``sensitivity``: setting -> labels of the rows that differ from the reference in its value alone.
    """

    title: str = ""
    note: str = ""
    reference: str = ""
    tested: tuple[str, ...] = ()
    sensitivity: Mapping[str, list[str]] = field(default_factory=dict)


def write_about(folder: str | Path, about: About) -> None:
    """Keep it in a comparison's folder, atomically."""
    with atomic_writer(Path(folder) / ABOUT_FILE) as file:
        file.write((json.dumps(asdict(about), indent=1) + "\n").encode())


def read_about(folder: str | Path) -> About:
    """What :func:`write_about` kept; nothing in particular where it kept nothing.

    Raises:
        DataError: for a file that it did not write.
    """
    path = Path(folder) / ABOUT_FILE
    if not path.is_file():
        return About()
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return About(**fields | {"tested": tuple(fields["tested"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} does not say what a report needs ({error}); delete it, or compare again") from None


def read_records(folder: str | Path, name: str = RECORDS_FILE) -> list[Record]:
    """Records of a file of a comparison's folder; empty where there are none yet."""
    path = Path(folder) / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Record.from_json(line) for line in lines if line]


def write_records(folder: str | Path, records: Sequence[Record], name: str = RECORDS_FILE) -> None:
    """Replace the records of a folder, atomically."""
    with atomic_writer(Path(folder) / name) as file:
        file.write("".join(record.to_json() + "\n" for record in records).encode())


def per_user_file(folder: str | Path, record: Record) -> Path:
    """Where the per-user metrics of a record lie."""
    return Path(folder) / PER_USER_FOLDER / f"{record.run_name}.parquet"


def read_per_user(
    folder: str | Path, record: Record, metrics: Sequence[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Per-user metrics of a run, users in token order.

    Args:
        metrics: names, such as "ndcg@10" or "full/ndcg@10"; those that the run has not are left out.
    Returns:
        users [n] str, {metric: [n] float64, NaN where a user has none}.
    Raises:
        DataError: when the file is missing or holds no users.
    """
    import pandas as pd

    path = per_user_file(folder, record)
    if not path.is_file():
        raise DataError(f"{path} is missing: copy it from where {record.label} was run, or run the comparison again")
    table = pd.read_parquet(path)
    if "user" not in table:
        raise DataError(f"{path} has no column 'user'; run the comparison again")
    table = table.assign(user=table["user"].astype(str)).sort_values("user")
    return table["user"].to_numpy(), {m: table[m].to_numpy(np.float64) for m in metrics if m in table}
