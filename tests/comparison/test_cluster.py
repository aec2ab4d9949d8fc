"""Runs of a comparison on a real Ray cluster of two nodes on this machine."""

import os

import pytest
import ray
from ray.cluster_utils import Cluster
from synthetic import SMALL_SASREC, cycle_settings, write_cycle

from recbole_llm.comparison.cluster import RayCluster
from recbole_llm.comparison.execute import execute
from recbole_llm.comparison.ledger import valid_records
from recbole_llm.comparison.plan import Plan, Row
from recbole_llm.comparison.record import FAILED, OK, per_user_file
from recbole_llm.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(monkeypatch):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield
    ray.shutdown()
    cluster.shutdown()


def test_the_records_are_those_of_processes(nodes, tmp_path):
    settings = cycle_settings(write_cycle(tmp_path / "cycle")) | {"valid_metric": "NDCG@5"}
    rows = (
        Row("short", "SASRecAll", SMALL_SASREC | {"epochs": 1}),
        Row("impossible", "SASRecAll", SMALL_SASREC | {"hidden_size": 7}),
        Row("Pop", "Pop"),
    )
    plan = Plan(dataset="cycle", rows=rows, seeds=1, settings=settings)
    here = execute(plan, tmp_path / "here", jobs=2, say=lambda line: None)
    there = execute(plan, tmp_path / "there", runner=RayCluster(2, cpus=1), say=lambda line: None)
    assert [r.status for r in there] == [OK, FAILED, OK] and "does not split" in there[1].reason
    for a, b in zip(here, there, strict=True):
        assert (a.key, a.config_hash, a.code_hash, a.data_hash) == (b.key, b.config_hash, b.code_hash, b.data_hash)
        if a.result:
            assert a.result.test == b.result.test
            assert per_user_file(tmp_path / "there", b).is_file()
    assert len(valid_records(plan.jobs(), there, tmp_path / "there")) == 2  # what was run there is not run again here


def test_more_than_a_node_has_is_one_sentence(nodes):
    with pytest.raises(ConfigError, match="no node of the Ray cluster has 5 cores and 0 GPUs; ask for fewer"):
        RayCluster(1, cpus=5)
    with pytest.raises(ConfigError, match="has 1 cores and 1 GPUs"):
        RayCluster(1, gpus=1)


def test_a_node_that_dies_costs_a_row(nodes, tmp_path):
    plan = Plan(dataset="cycle", rows=(Row("Pop", "Pop"),), seeds=1, settings=cycle_settings(write_cycle(tmp_path)))
    runner = RayCluster(1, cpus=1)
    runner._task = ray.remote(max_retries=0)(lambda job, out: os._exit(1))
    (record,) = execute(plan, tmp_path / "out", runner=runner, say=lambda line: None)
    assert record.status == FAILED and record.reason.startswith("WorkerCrashedError")
