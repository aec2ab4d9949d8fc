"""Runs of a comparison as tasks of a Ray cluster."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from recbole_llm.comparison.execute import Runner
from recbole_llm.comparison.plan import Job
from recbole_llm.comparison.record import FAILED, Record, per_user_file
from recbole_llm.comparison.worker import blank_record, work
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import MissingDependencyError


class RayCluster(Runner):
    """Runs jobs on the cluster that RAY_ADDRESS names, else on a Ray of this machine.

    A node writes checkpoints below the comparison's folder on its own disk: on a shared disk a broken-off run goes on
    anywhere. The record and the per-user metrics come back through Ray.

    Args:
        jobs: runs at a time. cpus: cores a run; None: this machine's shared out among the jobs.
    """

    def __init__(self, jobs: int, cpus: int | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingDependencyError("--ray needs Ray; run: pip install 'recbole-llm[tune]'") from None
        self._ray, self._pool = ray, ThreadPoolExecutor(jobs)
        cpus = cpus or max(1, (os.cpu_count() or 1) // jobs)
        if not ray.is_initialized():
            ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(cpus)}}
        # max_calls: a process a run, so that its peak memory is its own
        self._task = ray.remote(num_cpus=cpus, max_retries=0, max_calls=1, runtime_env=environment)(_task)

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._ray.shutdown()

    def start(self, job: Job, out: Path) -> Future:
        return self._pool.submit(self._record, job, out)

    def stop(self) -> None:
        self._ray.shutdown()

    def _record(self, job: Job, out: Path) -> Record:
        try:
            line, per_user = self._ray.get(self._task.remote(asdict(job), str(out.resolve())))
        except self._ray.exceptions.RayError as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return replace(blank_record(job, out), status=FAILED, reason=reason)
        record = Record.from_json(line)
        if per_user is not None:
            with atomic_writer(per_user_file(out, record)) as file:
                file.write(per_user)
        return record


def _task(job: dict, out: str) -> tuple[str, bytes | None]:
    record = work(Job(**job), Path(out))
    file = per_user_file(out, record)
    return record.to_json(), file.read_bytes() if record.result and file.is_file() else None
