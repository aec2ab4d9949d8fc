"""Runs the jobs of a plan, several at a time, each in its own process; what has a valid record is not run again."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

from recbole_llm.comparison.ledger import Ledger, valid_records
from recbole_llm.comparison.plan import Job, Plan
from recbole_llm.comparison.record import FAILED, OK, OTHERS_FILE, Record, read_records
from recbole_llm.comparison.worker import blank_record

LOG_FOLDER = "logs"
Say = Callable[[str], None]


class Runner:
    """Starts runs somewhere; a context manager."""

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_) -> None:
        pass

    def start(self, job: Job, out: Path) -> Future:
        """The job's record, in future."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs; what has not begun does not begin."""


def execute(
    plan: Plan,
    out: Path,
    *,
    jobs: int = 1,
    memory_gib: float | None = None,
    runner: Runner | None = None,
    more: Sequence[Record] = (),
    say: Say = print,
) -> list[Record]:
    """Run what a plan's folder lacks, and return the plan's records in its order.

    Args:
        out: folder of the comparison; records are written there as runs end.
        jobs: runs at a time. memory_gib: address space a run may take; None: no limit.
        runner: starts runs; None: processes on this machine. say: receives a line of progress.
        more: records of other systems, to stand beside the plan's.
    """
    todo = in_order(plan)
    ledger = Ledger(out, todo, more)
    ledger.write()
    chosen = {
        _row(job): ledger.valid[id(job)].chosen
        for job in todo
        if job.seed == job.choice_seed and id(job) in ledger.valid
    }
    open_jobs = sorted((job for job in todo if id(job) not in ledger.valid), key=lambda job: job.seed)
    done = len(ledger.valid)
    say(f"{len(todo)} runs: {done} have a record, {len(open_jobs)} to do, {jobs} at a time")
    start, finished = time.monotonic(), 0
    with runner or Processes(jobs, memory_gib) as starter:

        def begin(job: Job) -> Future:
            # the first seed chooses from a grid for all; where it failed, another one searches again
            known = chosen.get(_row(job)) if job.grid and job.seed != job.choice_seed else None
            return starter.start(replace(job, chosen=known), out)

        later = [job for job in open_jobs if _waits(job, open_jobs)]
        waiting = {begin(job): job for job in open_jobs if job not in later}
        try:
            while waiting:
                ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    job, record = waiting.pop(future), future.result()
                    ledger.add(record)
                    finished += 1
                    if record.status == OK and job.seed == job.choice_seed:
                        chosen[_row(job)] = record.chosen
                    ready = [other for other in later if _waits(other, [job])]
                    later = [other for other in later if other not in ready]
                    waiting |= {begin(other): other for other in ready}
                    left = (time.monotonic() - start) / finished * (len(waiting) + len(later))
                    say(f"[{done + finished}/{len(todo)}] {_outcome(job, record)}; {_about(left)} left")
        except BaseException:
            starter.stop()
            raise
    return ledger.write()


def _row(job: Job) -> tuple[str, str]:
    return job.label, job.protocol


def _waits(job: Job, others: Sequence[Job]) -> bool:
    """Whether one of the others makes the job's choice from the grid: the first seed chooses for all."""
    row = job.label, job.protocol, job.choice_seed
    return bool(job.grid) and job.seed != job.choice_seed and any((o.label, o.protocol, o.seed) == row for o in others)


def in_order(plan: Plan) -> list[Job]:
    """Jobs by protocol and row, as a table shows them."""
    rows = {row.label: k for k, row in enumerate(plan.rows)}
    return sorted(plan.jobs(), key=lambda job: (plan.protocols.index(job.protocol), rows[job.label], job.seed))


def _outcome(job: Job, record: Record) -> str:
    if record.status == FAILED:
        return f"{job.name}: failed, {record.reason}"
    metric = record.result.config["valid_metric"].lower()
    seconds = sum(record.result.seconds.values()) + record.grid_seconds
    return f"{job.name}: valid {metric} {record.result.valid[metric]:.4f}, {seconds:.0f} s"


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} min"


class Processes(Runner):
    """Runs jobs in processes of this machine, the cores shared out among them."""

    def __init__(self, jobs: int, memory_gib: float | None = None) -> None:
        self._pool, self._memory = ThreadPoolExecutor(jobs), memory_gib
        self._threads = max(1, (os.cpu_count() or 1) // jobs)
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start(self, job: Job, out: Path) -> Future:
        """The job's record, in future."""
        return self._pool.submit(self._record, job, out)

    def estimate(self, job: Job, out: Path) -> float | None:
        """See :func:`recbole_llm.comparison.estimate.probe`; None where the job cannot even start."""
        answer, _ = self._ask(job, out, {"estimate": True})
        return None if answer is None else json.loads(answer)["seconds"]

    def stop(self) -> None:
        """Kill what runs; what has not begun does not begin."""
        self._stopped = True
        for process in list(self._running):
            process.kill()

    def _record(self, job: Job, out: Path) -> Record:
        if self._stopped:
            raise KeyboardInterrupt
        answer, reason = self._ask(job, out, {"memory_gib": self._memory})
        if answer is not None:
            return Record.from_json(answer)
        return replace(blank_record(job, out), status=FAILED, reason=reason)

    def _ask(self, job: Job, out: Path, request: dict) -> tuple[str | None, str]:
        """A worker's answer, or None and why there is none."""
        log = out / LOG_FOLDER / f"{_file_name(job)}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        with tempfile.TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as file:
            answer = Path(folder) / "answer.json"
            request |= {"job": asdict(job), "out": str(out.resolve()), "answer": str(answer), "parent": os.getpid()}
            command = [sys.executable, "-m", "recbole_llm.comparison.worker"]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, text=True
            )
            self._running.add(process)
            try:
                process.communicate(json.dumps(request))
            finally:
                self._running.discard(process)
            if answer.is_file():
                return answer.read_text(encoding="utf-8"), ""
        if process.returncode == -9:
            return None, "killed by the system, most likely for lack of memory"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = " ".join(lines[-1].split())[:300] if lines else "no message"
        return None, f"the process ended with code {process.returncode} ({last}); see {log}"


def _file_name(job: Job) -> str:
    kept = "".join(c if c.isalnum() else "-" for c in job.label).strip("-")
    return f"{kept}-{job.protocol}-s{job.seed}"


def estimate(plan: Plan, out: Path, jobs: int, say: Say) -> tuple[float, bool]:
    """Seconds that :func:`execute` will take: rows that have run under these settings by their records, the others by a
    few steps each.

    Args:
        say: receives one line a row.
    Returns:
        seconds; whether they are a bound, which those from records are not.
    """
    from recbole_llm.comparison.choice import grid_points
    from recbole_llm.comparison.estimate import from_records

    todo = in_order(plan)
    records = [*read_records(out), *read_records(out, OTHERS_FILE)]
    done = valid_records(todo, records, out)
    by_row: dict[tuple[str, str], list[Job]] = {}
    for job in todo:
        if id(job) not in done:
            by_row.setdefault(_row(job), []).append(job)
    total, longest, bound = 0.0, 0.0, True
    with Processes(1) as starter:
        starter._threads = max(1, (os.cpu_count() or 1) // jobs)
        for (label, protocol), group in by_row.items():
            known = from_records(group[0], records, out)
            seconds = starter.estimate(group[0], out) if known is None else known
            if seconds is None:
                say(f"{label}, {protocol}: does not start, see {out / LOG_FOLDER}")
                continue
            bound = bound and known is None
            points = len(grid_points(group[0].grid)) if group[0].seed == group[0].choice_seed else 0
            searches = sum(job.seed == job.choice_seed for job in group)
            n_runs = len(group) + points * searches
            total += n_runs * seconds
            # the first seed goes through the grid alone, then the others may run side by side
            longest = max(longest, (points + 1 + (points > 0 and len(group) > searches)) * seconds)
            say(f"{label}, {protocol}: {n_runs} x {'at most ' if known is None else ''}{seconds:.0f} s")
    return max(total / jobs, longest), bound
