"""A search on a real Ray cluster of two nodes on this machine, one of which is killed."""

import threading

import pytest
import ray
from ray.cluster_utils import Cluster
from sweeps import wait_for, write_sweep

from recbole_llm.tuning.ledger import FINISHED, RUNNING
from recbole_llm.tuning.search import Resources, search
from recbole_llm.tuning.sweep import make_sweep

pytestmark = pytest.mark.slow


def test_a_node_is_lost_and_the_search_ends(tmp_path):
    sweep = make_sweep(write_sweep(tmp_path, 40, trials=3), None, {}, {})
    out, broken = tmp_path / "out", {}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)

    def kill() -> None:
        trials = wait_for(out, lambda ts: sum(t.status == RUNNING and t.epochs >= 3 for t in ts) == 2)
        cluster.remove_node(node, allow_graceful=False)
        broken.update({t.id: t.epochs for t in trials})

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        trials = search(sweep, out, Resources(address=cluster.address), resume=False, say=lambda line: None)
        killer.join(timeout=60)
        assert cluster.worker_nodes == set()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(broken) == 2 and [t.status for t in trials] == [FINISHED] * 3
    for trial in trials:
        assert [epoch for epoch, _ in trial.history] == list(range(1, 41))
    lost = [trial for trial in trials if trial.resumed]  # started again, from the epoch that it had reached
    assert len(lost) == 1 and lost[0].resumed[0] >= broken[lost[0].id] >= 3
