"""The training graph against a loop over its edges, and RecBole's models over it against RecBole's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.utils import init_seed

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.experiment import run
from recbole_llm.experiment.data import build_data, build_model, eval_data, train_loader
from recbole_llm.model import graph
from recbole_llm.model.graph import adjacency_of, csr_tensor, layer_mean, normalised_adjacency, training_graph

U, N = 6, 5
edges = st.lists(st.tuples(st.integers(1, U - 1), st.integers(1, N - 1)), min_size=1, max_size=30)


@settings(deadline=None)
@given(edges)
def test_adjacency_equals_a_loop(pairs):
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    wanted, distinct = np.zeros((U + N, U + N)), set(pairs)
    for u, i in distinct:
        degree_u, degree_i = sum(a == u for a, _ in distinct), sum(b == i for _, b in distinct)
        wanted[u, U + i] = wanted[U + i, u] = 1 / np.sqrt(degree_u * degree_i)
    found = normalised_adjacency(users, items, U, N).toarray()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert (found == found.T).all()


@settings(deadline=None)
@given(edges, st.integers(0, 4))
def test_propagation_and_its_gradient_equal_dense_ones(pairs, n_layers):
    users, items = (np.array(column) for column in zip(*pairs, strict=True))
    matrix = normalised_adjacency(users, items, U, N)
    torch.manual_seed(len(pairs))
    x = torch.randn(U + N, 3, requires_grad=True)
    dense, weight = torch.tensor(matrix.toarray(), dtype=torch.float64), torch.randn(U + N, 3)
    wanted_x = x.detach().double().requires_grad_()
    layer, layers = wanted_x, [wanted_x]
    for _ in range(n_layers):
        layer = dense @ layer
        layers.append(layer)
    wanted = torch.stack(layers).mean(0)
    found = layer_mean(csr_tensor(matrix), x, n_layers)
    torch.testing.assert_close(found, wanted.float())
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(x.grad, wanted_x.grad.float())


def test_without_mkl_and_gpu_the_same_in_coo(monkeypatch):
    matrix = normalised_adjacency(np.array([1, 2, 2]), np.array([1, 1, 3]), U, N)
    x = torch.randn(U + N, 4)
    csr = csr_tensor(matrix)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    coo = csr_tensor(matrix)
    assert (csr.layout, coo.layout) == (torch.sparse_csr, torch.sparse_coo)
    assert csr.crow_indices().dtype == csr.col_indices().dtype == torch.int32
    torch.testing.assert_close(layer_mean(coo, x, 2), layer_mean(csr, x, 2))


def test_built_once_for_the_same_interactions(monkeypatch):
    built = []
    monkeypatch.setattr(graph, "csr_tensor", lambda matrix: built.append(matrix) or csr_tensor(matrix))
    monkeypatch.setattr(graph, "_graphs", {})
    users, items = np.array([1, 2]), np.array([3, 4])
    one = adjacency_of(users, items, U, N)
    assert adjacency_of(users.copy(), items.copy(), U, N) is one and len(built) == 1
    assert adjacency_of(items, users, U, N) is not one
    for k in range(1, U):
        adjacency_of(np.array([k]), np.array([1]), U, N)
    assert len(graph._graphs) == 4  # it does not grow with every dataset of a process


class TestOnData:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory, tiny_dataset):
        return tiny_dataset(tmp_path_factory.mktemp("graph"))

    def built(self, folder, model: str, **changes):
        shared = {"data_path": str(folder), "use_gpu": False, "embedding_size": 8, "protocol": "rs-full"}
        config = build_config(model, "tiny", (), shared | changes, ())
        data = build_data(config)
        init_seed(3, True)
        return config, data, build_model(config, data)

    def test_holds_no_held_out_interaction(self, folder):
        _, data, _ = self.built(folder, "LightGCN")
        dense = training_graph(data.train).to_dense()
        n_users = data.base.user_num
        for rows, inside in ((data.split.train, True), (data.split.valid, False), (data.split.open_test(), False)):
            pairs = dense[data.user_ids[rows], n_users + data.item_ids[rows]]
            assert bool((pairs > 0).all()) if inside else not pairs.any()
        assert int((dense > 0).sum()) == 2 * len(data.split.train)

    @pytest.mark.parametrize(("model", "more"), [("LightGCN", {}), ("SGL", {"type": "ED"}), ("SGL", {"type": "ND"})])
    def test_recbole_s_models_score_the_same(self, folder, model: str, more: dict):
        results = []
        for fast in (False, True):
            config, data, built = self.built(folder, model, fast_graph=fast, **more)
            assert type(built).__module__.startswith("recbole_llm" if fast else "recbole.")
            optimizer = torch.optim.Adam(built.parameters(), lr=0.01)
            init_seed(5, True)
            if model == "SGL":
                built.graph_construction()
            for batch in [*train_loader(config, data)] * 3:
                optimizer.zero_grad()
                loss = built.calculate_loss(batch)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                scores = built.eval().full_sort_predict(eval_data(config, data, "valid").inputs)
            results.append((loss.item(), scores))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5)
        assert results[0][1].abs().max() > 0.01

    def test_a_whole_run(self, folder, tmp_path):
        settings = {"data_path": str(folder), "use_gpu": False, "protocol": "rs-full", "epochs": 2, "state": "WARNING"}
        plain, fast = (
            run("LightGCN", "tiny", settings | {"run_dir": str(tmp_path), "fast_graph": f}) for f in (False, True)
        )
        assert plain.test == pytest.approx(fast.test, abs=0.02) and plain.code_hash != fast.code_hash

    def test_models_that_it_does_not_serve(self, folder):
        with pytest.raises(ConfigError, match="fast_graph serves LightGCN and SGL, not BPR"):
            self.built(folder, "BPR", fast_graph=True)
        with pytest.raises(ConfigError, match="set type to ED or ND"):
            self.built(folder, "SGL", fast_graph=True, type="RW")
