"""Runs of a comparison as tasks of a Ray cluster."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from recbole_llm.comparison.execute import Runner
from recbole_llm.comparison.plan import Job
from recbole_llm.comparison.record import FAILED, Record, per_user_file
from recbole_llm.comparison.worker import blank_record, work
from recbole_llm.data.files import atomic_writer
from recbole_llm.errors import ConfigError, MissingDependencyError


class RayCluster(Runner):
    """Runs jobs on the cluster that RAY_ADDRESS names, else on a Ray of this machine.

    A node writes checkpoints below the comparison's folder on its own disk: on a shared disk a broken-off run goes on
    anywhere. The record and the per-user metrics come back through Ray.

    Args:
        jobs: runs at a time. cpus: cores a run; None: the cluster's shared out, no more than its largest node has.
        gpus: GPUs a run; Ray shows a run no others.
    Raises:
        ConfigError: when no node has as many.
        MissingDependencyError: without Ray.
    """

    def __init__(self, jobs: int, cpus: int | None = None, gpus: float = 0.0) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingDependencyError("--ray needs Ray; run: pip install 'recbole-llm[tune]'") from None
        self._ray, self._pool, self._stopped = ray, ThreadPoolExecutor(jobs), False
        if not ray.is_initialized():
            ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = max(int(node.get("CPU", 0)) for node in nodes)
        cpus = cpus or max(1, min(most, int(ray.cluster_resources().get("CPU", 1)) // jobs))
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            raise ConfigError(f"no node of the Ray cluster has {cpus} cores and {gpus:g} GPUs; ask for fewer")
        environment = {"env_vars": {"OMP_NUM_THREADS": str(cpus)}}
        # max_calls: a process a run, so that its peak memory is its own
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1, runtime_env=environment)(
            _task
        )

    def __exit__(self, *_) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._ray.shutdown()

    def start(self, job: Job, out: Path) -> Future:
        return self._pool.submit(self._record, job, out)

    def stop(self) -> None:
        self._stopped = True
        self._ray.shutdown()

    def _record(self, job: Job, out: Path) -> Record:
        if self._stopped:
            raise KeyboardInterrupt
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
