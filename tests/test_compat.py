"""Each patch is shown twice: RecBole breaks (or warns) without it and works with it, on the installed versions."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_llm import compat
from recbole_llm.compat import libraries
from recbole_llm.compat.patch import at_least
from recbole_llm.errors import MissingDependencyError

recbole = pytest.importorskip("recbole")

ROOT = Path(__file__).parents[1]
SOURCE = Path(recbole.__file__).parent
PATCHES = {patch.name: patch for patch in compat.patches()}

# torch warns of the pickle protocol before it fails, and here a warning is an error
REFUSED = "Weights only load failed|Detected pickle protocol 4"

LAST_ITEMS = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}

INTER = [("u0", "i0"), ("u0", "i1"), ("u0", "i2"), ("u1", "i0"), ("u1", "i2"), ("u1", "i3")]


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """A dataset of two users in the working directory, into which RecBole's trainers write."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    files = tmp_path / "tiny"
    files.mkdir()
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    rows += [f"{user}\t{item}\t{time}" for time, (user, item) in enumerate(INTER)]
    (files / "tiny.inter").write_text("\n".join(rows) + "\n")
    (files / "tiny.item").write_text("item_id:token\tclass:token_seq\ni0\ta b\ni1\ta\ni2\t\ni3\tb\n")


@contextmanager
def without(name: str):
    """RecBole as released with respect to one patch; every warning is an error."""
    patch = PATCHES[name]
    if not patch.needed():
        pytest.skip(f"the installed versions do not need {name}")
    assert patch.in_force
    patch.revert()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        patch.apply()


def make_config(model="BPR", **settings):
    from recbole.config import Config

    defaults = {"data_path": os.getcwd(), "gpu_id": "", "embedding_size": 4, "show_progress": False, "epochs": 1}
    return Config(model, "tiny", config_dict=defaults | settings)


def make_data(config):
    from recbole.data import create_dataset, data_preparation

    return data_preparation(config, create_dataset(config))


def make_trainer():
    """BPR, its trainer and its train and valid loaders, everything in one batch."""
    from recbole.trainer import Trainer

    config = make_config(
        load_col={"inter": ["user_id", "item_id", "timestamp"]}, eval_args=LAST_ITEMS, topk=[2], valid_metric="MRR@2"
    )
    train, valid, _ = make_data(config)
    return Trainer(config, config.model_class(config, train._dataset)), train, valid


def python(code: str, *flags: str) -> str:
    """Standard output of a fresh interpreter."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *flags, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_with(pattern: str) -> set[str]:
    """RecBole's modules, but for the never imported quick_start, with a line of code that matches."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if re.search(pattern, path.read_text(encoding="utf-8")):
            found.add(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    return {name for name in found if not name.startswith("quick_start")}


# the table ------------------------------------------------------------------------------------------------------------


def test_apply_twice_changes_nothing_and_names_the_patches_in_force():
    def state():
        return {
            (name, attribute): id(value)
            for name, module in sys.modules.items()
            if name.startswith("recbole.")
            for attribute, value in vars(module).items()
        }

    names = compat.apply()
    before = state()
    assert compat.apply() == names
    assert state() == before
    assert names == [patch.name for patch in compat.patches() if patch.in_force]
    assert set(names) == {patch.name for patch in compat.patches() if patch.needed()}


def test_every_patch_says_what_breaks_and_since_when():
    assert len(PATCHES) == len(compat.patches())
    for patch in compat.patches():
        assert patch.breaks
        assert re.fullmatch(r"(numpy|pandas|torch|scipy|recbole) \d+(\.\d+)+", patch.since)


def test_revert_gives_back_what_was_there():
    from recbole.config import Config

    patched_method = Config.compatibility_settings
    patch = PATCHES["numpy-aliases"]
    if not patch.in_force:
        pytest.skip("numpy 1 needs no aliases")
    patch.revert()
    assert not patch.in_force
    assert Config.compatibility_settings.__module__ == "recbole.config.configurator"
    assert "float" not in vars(sys.modules["recbole.evaluator.metrics"].np)
    patch.revert()
    patch.apply()
    assert Config.compatibility_settings.__code__ is patched_method.__code__


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({}, "RecBole is not installed; run: pip install --no-deps recbole==1.2.1"),
        (
            {"recbole": "1.1.1"},
            "RecBole 1.1.1 is installed but 1.2.1 is needed; run: pip install --no-deps recbole==1.2.1",
        ),
        (
            {"recbole": "1.2.1", "pandas": "3.0.1"},
            "pandas 3.0.1 is installed but RecBole 1.2.1 misreads data with it; run: pip install 'pandas<3'",
        ),
    ],
)
def test_require_recbole_names_the_way_out(monkeypatch, versions, message):
    def version(package):
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(MissingDependencyError) as error:
        compat.apply()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("version", "result"),
    [("2.5.1", False), ("2.6.0+cpu", True), ("2.13.0", True), ("3.0rc1", True), ("1.26.4", False)],
)
def test_versions_are_compared_as_numbers(monkeypatch, version, result):
    monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
    assert at_least("torch", 2, 6) is result


def test_import_is_light_and_require_recbole_imports_nothing_heavy():
    loaded = python(
        "import sys, recbole_llm.compat as c; c.require_recbole(); c.patches();"
        "print([m for m in ('torch', 'recbole', 'numpy', 'scipy', 'pandas') if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


@pytest.mark.slow
@pytest.mark.slow
def test_no_optional_package_is_imported_and_no_library_is_changed():
    code = """
import sys
optional = ['ray', 'hyperopt', 'lightgbm', 'xgboost', 'dgl', 'faiss', 'thop', 'distutils', 'plotly', 'wandb',
            'torch_scatter', 'torch_geometric', 'tabulate']
sys.modules.update(dict.fromkeys(optional))  # None makes an import fail as if the package were missing
import numpy, pandas, scipy.sparse, torch, torch.cuda.amp
libraries = [numpy, pandas, scipy.sparse, torch, torch.sparse, torch.amp, torch.cuda.amp]
before = [dict(vars(library)) for library in libraries]
from recbole_llm import compat
compat.apply()
import recbole.config, recbole.data, recbole.trainer, recbole.utils
sys.argv = ['test']
recbole.config.Config('BPR', 'any')
for library, names in zip(libraries, before):
    for name, value in names.items():
        assert getattr(library, name) is value, (library, name)
    assert not {'float', 'int', 'str', 'unicode', 'complex', 'object'} & (vars(library).keys() - names.keys())
"""
    python(code, "-W", "ignore")


# numpy ----------------------------------------------------------------------------------------------------------------


def test_config_without_numpy_aliases(monkeypatch):
    monkeypatch.setattr(np, "int", int, raising=False)  # RecBole sets it, pytest takes it away again
    with without("numpy-aliases"), pytest.raises(AttributeError, match="float_"):
        make_config()
    assert make_config()["embedding_size"] == 4


def test_metrics_and_interactions_without_numpy_aliases():
    from recbole.data import interaction
    from recbole.evaluator.metrics import MRR

    metric = MRR({"topk": [3], "metric_decimal_place": 4})
    ranked = np.array([[False, True, False]])
    with without("numpy-aliases"):
        with pytest.raises(AttributeError, match="float"):
            metric.metric_info(ranked)
        with pytest.raises(AttributeError, match="float"):
            interaction._convert_to_tensor(np.array([1.5]))
    assert metric.metric_info(ranked).tolist() == [[0.0, 0.5, 0.5]]
    assert interaction._convert_to_tensor(np.array([1.5])).tolist() == [1.5]


def test_every_use_of_a_removed_numpy_alias_is_covered():
    removed = [
        name for name in ("float", "str", "int", "bool", "object", "complex", "long", "unicode") if name not in vars(np)
    ]
    uses = modules_with(rf"\bnp\.({'|'.join(removed)})\b")
    assert uses - {"config.configurator"} == libraries.NUMPY_ALIASES.keys()


def test_sorting_an_interaction():
    from recbole.data.interaction import Interaction

    def interaction():
        return Interaction({"key": torch.tensor([2, 3, 1, 2]), "row": torch.arange(4)})

    with without("numpy-of-tensors"), pytest.raises(DeprecationWarning, match="__array_wrap__"):
        interaction().sort("key")
    rows = interaction()
    rows.sort("key")
    assert rows["row"].tolist() == [2, 0, 3, 1]


def test_line_samples_unused_items():
    from recbole.model.general_recommender import LINE

    draws = iter([[1, 2], [2]])
    model = SimpleNamespace(
        device="cpu", used_ids=np.array([{0}, {1}, set()]), random_num=lambda n: np.array(next(draws))
    )
    with without("numpy-of-tensors"), pytest.raises(DeprecationWarning, match="copy keyword"):
        LINE.sampler(model, torch.tensor([1, 0]))
    assert LINE.sampler(model, torch.tensor([1, 0])).tolist() == [2, 2]


# pandas ---------------------------------------------------------------------------------------------------------------


def test_loading_a_dataset():
    from recbole.data import create_dataset

    columns = {"inter": ["user_id", "item_id"], "item": ["item_id", "class"]}
    with without("pandas-warnings"), pytest.raises(FutureWarning, match="fillna|set on a copy"):
        create_dataset(make_config(load_col=columns))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = create_dataset(make_config(load_col=columns))
    dataset._change_feat_format()
    classes = {
        str(dataset.id2token("item_id", item)): [str(dataset.id2token("class", c)) for c in row if c]
        for item, row in zip(dataset.item_feat["item_id"], dataset.item_feat["class"], strict=True)
    }
    assert classes == {"[PAD]": [], "i0": ["a", "b"], "i1": ["a"], "i2": [], "i3": ["b"]}


# torch ----------------------------------------------------------------------------------------------------------------


def test_reloading_a_checkpoint():
    trainer, _, valid = make_trainer()
    trainer._save_checkpoint(0, verbose=False)
    saved = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with without("torch-load"):
        with pytest.raises(Exception, match=REFUSED):
            trainer.evaluate(valid)
        with pytest.raises(Exception, match=REFUSED):
            trainer.resume_checkpoint(trainer.saved_model_file)
    for value in trainer.model.state_dict().values():
        value.zero_()
    trainer.evaluate(valid)
    trainer.resume_checkpoint(trainer.saved_model_file)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, saved[name])
    # the loader that everybody else sees still refuses to unpickle
    with pytest.raises(Exception, match=REFUSED):
        torch.load(trainer.saved_model_file)
    trainer.tensorboard.close()


def test_every_load_is_covered_and_keeps_an_explicit_choice(tmp_path):
    assert modules_with(r"\btorch\.load\(") == set(libraries.TORCH_LOAD)
    torch.save(SimpleNamespace(), tmp_path / "object.pth")
    for module in libraries.TORCH_LOAD:
        load = sys.modules[f"recbole.{module}"].torch.load
        assert isinstance(load(tmp_path / "object.pth"), SimpleNamespace)
        with pytest.raises(Exception, match=REFUSED):
            load(tmp_path / "object.pth", weights_only=True)


def test_sparse_tensors():
    from recbole.model.layers import SparseDropout

    graph = torch.eye(4).to_sparse()
    drop = SparseDropout(p=0.0)
    torch.set_warn_always(True)
    try:
        with without("torch-sparse-tensors"), pytest.raises(UserWarning, match="is deprecated"):
            drop(graph)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kept = drop(graph)
    finally:
        torch.set_warn_always(False)
    assert torch.equal(kept.to_dense(), torch.eye(4))
    assert modules_with(r"\btorch\.sparse\.FloatTensor\(") == set(libraries.SPARSE_TENSORS)


def test_training_an_epoch():
    trainer, train, _ = make_trainer()
    with without("torch-amp"), pytest.raises(FutureWarning, match="GradScaler"):
        trainer._train_epoch(train, 0)
    before = trainer.model.item_embedding.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer._train_epoch(train, 0)
    assert not torch.equal(before, trainer.model.item_embedding.weight)
    trainer.tensorboard.close()


def test_autocast_of_ncl():
    from recbole.trainer import trainer

    with without("torch-amp"), pytest.raises(FutureWarning, match="autocast"):
        trainer.amp.autocast(enabled=False)
    with trainer.amp.autocast(enabled=False):
        assert not torch.is_autocast_enabled("cuda")


# scipy ----------------------------------------------------------------------------------------------------------------


def test_graph_of_lightgcn():
    config = make_config("LightGCN")
    dataset = make_data(config)[0]._dataset
    with without("scipy-dok-update"), pytest.raises(AttributeError, match="_update"):
        config.model_class(config, dataset)

    graph = config.model_class(config, dataset).norm_adj_matrix.to_dense()

    n_users = dataset.user_num
    edges = torch.zeros_like(graph)
    for user, item in zip(dataset.inter_feat["user_id"], dataset.inter_feat["item_id"], strict=True):
        edges[user, n_users + item] = edges[n_users + item, user] = 1.0
    degree = edges.sum(1)
    expected = torch.zeros_like(graph)
    for a, b in edges.nonzero().tolist():
        expected[a, b] = 1 / (degree[a] * degree[b]).sqrt()
    torch.testing.assert_close(graph, expected, rtol=1e-6, atol=1e-6)


def test_graph_matrix_equals_the_dictionary_of_keys():
    import scipy.sparse as sp

    if not PATCHES["scipy-dok-update"].in_force:
        pytest.skip("dok_matrix has _update")
    rng = np.random.default_rng(0)
    edges = {(int(a), int(b)): int(weight) for a, b, weight in rng.integers(0, 5, (12, 3))}
    graph = sys.modules["recbole.model.general_recommender.lightgcn"].sp.dok_matrix((5, 7), dtype=np.float32)
    graph._update(edges)
    oracle = sp.dok_matrix((5, 7), dtype=np.float32)
    oracle.update(edges)
    assert graph.dtype == np.float32
    scale = sp.diags(np.arange(1.0, 6.0))
    assert graph.toarray().tolist() == oracle.toarray().tolist()
    assert (scale * graph).toarray().tolist() == (scale * oracle).toarray().tolist()
    assert (graph > 0).sum(axis=1).tolist() == (oracle > 0).sum(axis=1).tolist()
    assert graph.sum(1).tolist() == oracle.sum(1).tolist()


def test_every_update_of_a_graph_is_covered():
    assert modules_with(r"\bA\._update\(") == set(libraries.GRAPH_MODELS)
    if PATCHES["scipy-dok-update"].in_force:
        assert all(
            hasattr(sys.modules[f"recbole.{module}"].sp.dok_matrix, "_update") for module in libraries.GRAPH_MODELS
        )


# RecBole's own --------------------------------------------------------------------------------------------------------


def test_collector_keeps_counts_and_forgets_the_evaluation():
    from recbole.evaluator import Collector
    from recbole.evaluator.collector import DataStruct

    collector = Collector.__new__(Collector)
    collector.data_struct = DataStruct()
    collector.data_struct.set("data.num_items", 5)
    collector.data_struct.set("data.count_items", {1: 3})
    collector.data_struct.set("rec.items", torch.tensor([[1, 2]]))
    with without("metric-counts"), pytest.raises(AttributeError, match="cpu"):
        collector.get_data_struct()

    collected = collector.get_data_struct()

    assert collected.get("data.num_items") == 5
    assert collected.get("data.count_items") == {1: 3}
    assert collected.get("rec.items").tolist() == [[1, 2]]
    assert "rec.items" not in collector.data_struct
    assert "data.num_items" in collector.data_struct


class OnGpu(torch.Tensor):
    """Stands for scores on a GPU: until ``cpu`` is called, they must not choose among candidates on the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(torch.Tensor)
        if function is torch.Tensor.detach:
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        return super().__torch_function__(function, types, args, kwargs or {})


def test_dynamic_negatives_take_the_best_candidate_of_a_gpu_model():
    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def predict(self, interaction):
            return interaction["item_id"].float().as_subclass(OnGpu)

    negatives = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": 3, "alpha": 1.0}
    train, _, _ = make_data(make_config(train_neg_sample_args=negatives))
    model = Model()
    train.get_model(model)
    candidates = torch.tensor([[1, 4], [3, 2], [2, 1]])
    train._sampler = SimpleNamespace(sample_by_user_ids=lambda users, items, number: candidates.reshape(-1))
    rows = train._dataset.inter_feat[:2]
    with without("dynamic-negatives"), pytest.raises(RuntimeError, match="same device"):
        train._neg_sampling(rows)
    assert train._neg_sampling(rows)["neg_item_id"].tolist() == [3, 4]
    assert train.model is model


def test_relations_of_ksr():
    from recbole.model.sequential_recommender import KSR

    vectors = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    model = SimpleNamespace(gamma=1.0, relation_Matrix=vectors)
    with without("ksr-relations"):
        assert KSR.__init__.__code__.co_name == "__init__"
        with pytest.raises(RuntimeError, match="dtype"):
            KSR.memory_read(model, torch.ones(1, 3), torch.ones(1, 2, 3))
    assert KSR.__init__.__code__.co_name != "__init__"


def test_clusters_of_ncl():
    from recbole.model.general_recommender import NCL

    model = SimpleNamespace(k=2, latent_dim=2, device=torch.device("cpu"))
    points = np.array([[3, 0.1], [4, 0], [3, -0.1], [0.1, 2], [-0.1, 2]], dtype=np.float32)
    with without("ncl-clusters"), pytest.raises(ModuleNotFoundError, match="faiss"):
        NCL.run_kmeans(model, points)

    centroids, clusters = NCL.run_kmeans(model, points)

    assert clusters.dtype == torch.int64
    assert clusters[0] == clusters[1] == clusters[2] != clusters[3] == clusters[4]
    torch.testing.assert_close(centroids[clusters[0]], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(centroids[clusters[3]], torch.tensor([0.0, 1.0]))
