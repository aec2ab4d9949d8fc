"""One run of a comparison, in a process of its own: a crash, a kill or a lack of memory costs this run alone.

``python -m recbole_llm.comparison.worker`` reads a request as JSON from stdin and writes its answer to the file named
there.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_llm.comparison.plan import Job
from recbole_llm.comparison.record import FAILED, OK, PER_USER_FOLDER, Record
from recbole_llm.config import build_config, config_hash
from recbole_llm.config.locate import PACKAGED
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import RecBoleLLMError
from recbole_llm.experiment.record import code_hash, modules_of_run

# what every run of a comparison is given: runs are quiet, and lie below the comparison's folder
_QUIET = {"show_progress": False, "state": "WARNING"}
_BASIS_FILE = "basis.txt"  # in a run's folder: the code and data that its checkpoints belong to


def settings_of(job: Job, out: Path) -> dict[str, Any]:
    """Settings of a job as a config dict, without a choice from its grid."""
    return {**_QUIET, **job.settings, "protocol": job.protocol, "seed": job.seed, "run_dir": str(out / "runs")}


def blank_record(job: Job, out: Path) -> Record:
    """The record of a job that has not run: what it is, and the hashes that make a record valid.

    Raises:
        RecBoleLLMError: for settings, data or packages that cannot be run.
    """
    config = build_config(job.model, job.dataset, (), settings_of(job, out), ())
    return Record(
        label=job.label,
        model=job.model,
        dataset=job.dataset,
        protocol=job.protocol,
        seed=job.seed,
        status=FAILED,
        grid=json.loads(json.dumps(job.search.get("space", job.grid))),
        config_hash=config_hash(config),
        code_hash=code_hash(*modules_of_run(config)),
        data_hash=data_hash(config),
    )


def data_hash(config) -> str:
    """sha256 over the files below the data folder that a configuration may read: atomic files and its features."""
    from recbole_llm.paths import dataset_atomic_dir

    name, digest = config["dataset"], hashlib.sha256()
    features = config["features"] or {}
    for folder in (Path(config["data_path"]), dataset_atomic_dir() / name):
        for suffix in ("inter", "item", "user", "kg", "link", *sorted(features)):
            for path in (folder / f"{name}.{suffix}", folder / f"{name}.{suffix}.safetensors"):
                if path.is_file():
                    digest.update(f"{path.name} {_file_hash(path, path.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()


_hashes: dict[tuple[Path, int], str] = {}


def _file_hash(path: Path, modified: int) -> str:
    if (path, modified) not in _hashes:
        with path.open("rb") as file:
            _hashes[path, modified] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[path, modified]


def work(job: Job, out: Path) -> Record:
    """Choose from the job's grid, train, test once. What goes wrong is in the record, not raised.

    An unfinished run of the same settings, code and data goes on where it stopped.
    """
    try:
        record = blank_record(job, out)
        return _run(job, out, record)
    except RecBoleLLMError as error:
        reason = " ".join(str(error).split())
    except MemoryError:
        reason = "out of memory"
    except Exception as error:  # a row that fails stays in the table with its reason
        traceback.print_exc()
        text = " ".join(str(error).split())
        lacks_memory = "out of memory" in text.lower() or "can't allocate memory" in text.lower()
        reason = f"out of memory ({text[:160]})" if lacks_memory else f"{type(error).__name__}: {text[:300]}"
    try:
        return replace(blank_record(job, out), reason=reason)
    except RecBoleLLMError:
        return Record(job.label, job.model, job.dataset, job.protocol, job.seed, FAILED, reason)


def _run(job: Job, out: Path, record: Record) -> Record:
    from recbole_llm.comparison.choice import Choice, choose, grid_points
    from recbole_llm.experiment.run import PER_USER_FILE, run, run_folder

    base, basis = settings_of(job, out), f"code {record.code_hash} data {record.data_hash}"
    choice = Choice(dict(job.chosen or {}))
    if job.chosen is None:
        choice = choose(job, base | {"seed": job.choice_seed}, out / "grid", basis)
    settings = base | choice.point
    folder = run_folder(build_config(job.model, job.dataset, (), settings, ()))
    marker = folder / _BASIS_FILE
    same = marker.is_file() and marker.read_text(encoding="utf-8") == basis
    with atomic_writer(marker) as file:
        file.write(basis.encode())
    result = run(job.model, job.dataset, settings | {"resume": same})
    result = replace(result, config=_portable(result.config))
    kept = out / PER_USER_FOLDER / f"{folder.name}.parquet"
    if (folder / PER_USER_FILE).is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(kept) as target, (folder / PER_USER_FILE).open("rb") as source:
            shutil.copyfileobj(source, target)
    return replace(
        record,
        status=OK,
        chosen={**job.search.get("chosen", {}), **choice.point},
        tried=job.search.get("trials", len(grid_points(job.grid))),
        failed_points=job.search.get("failed", choice.failed),
        grid_seconds=job.search.get("seconds", choice.seconds),
        result=result,
    )


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """Settings whose paths mean the same in a copy of the working directory: relative where they lie below it.

    The folder of the dataset that RecBole carries is found by the dataset's name wherever RecBole is installed.
    """
    here, paths = Path.cwd(), {}
    for key in ("data_path", "run_dir", "checkpoint_dir"):
        path = Path(config[key] or "")
        paths[key] = str(path.relative_to(here) if path.is_relative_to(here) else path)
    if config["dataset"] == PACKAGED:
        paths["data_path"] = PACKAGED
    return config | paths


def main() -> int:
    """Serve one request of the comparison that started this process."""
    request: Mapping[str, Any] = json.load(sys.stdin)
    _die_with(request["parent"])
    if request.get("memory_gib"):
        _limit_memory(request["memory_gib"])
    job, out = Job(**request["job"]), Path(request["out"])
    with contextlib.redirect_stdout(sys.stderr):
        if request.get("estimate"):
            from recbole_llm.comparison.estimate import probe

            answer = json.dumps({"seconds": probe(job, out)})
        else:
            answer = work(job, out).to_json()
    with atomic_writer(Path(request["answer"])) as file:
        file.write(answer.encode())
    return 0


def _die_with(parent: int) -> None:
    """End this process when its parent has: two workers must never write to one run folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _limit_memory(gib: float) -> None:
    import resource

    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
