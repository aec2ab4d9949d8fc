"""Every model of RecBole that runs on a plain install trains an epoch of a few batches on a tiny dataset and scores."""

import importlib
import importlib.util
import math
import pkgutil
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("recbole")

PACKAGES = ("general", "sequential", "context_aware", "knowledge_aware")

# model -> the undeclared package it imports; none has wheels for current torch
# one of each kind also runs in the fast suite
FAST = {"BPR", "LightGCN", "EASE", "Pop", "MultiVAE", "SASRec", "SASRecF", "GRU4Rec"}
EXCLUDED = {"KGAT": "dgl", "KGIN": "torch_scatter", "MCCLK": "torch_scatter"}

N_USERS, N_ITEMS = 40, 50

SMALL = {
    "embedding_size": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "kg_embedding_size": 8,
    "latent_dimension": 8,
    "mlp_hidden_size": [8, 8],
    "attention_size": 8,
    "prototype_size": 4,
    "num_clusters": 4,
    "reranker_CAN_NUM": 10,
    "n_memory": 4,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 1024,
    "pretrain_epochs": 1,
    "use_gpu": False,
    "gpu_id": "",
    "show_progress": False,
    "epochs": 1,
}

FEATURES = {
    "inter": ["user_id", "item_id", "rating", "timestamp"],
    "user": ["user_id", "age"],
    "item": ["item_id", "class"],
}

GRAPH = {
    "inter": FEATURES["inter"],
    "kg": ["head_id", "relation_id", "tail_id"],
    "link": ["item_id", "entity_id"],
    "ent": ["ent_id", "ent_emb"],
}

OWN = {
    "ADMMSLIM": {"num_iters": 2},
    # its convolutions take exactly 64; the channels are the part to cut
    "ConvNCF": {"embedding_size": 64, "cnn_channels": [1, 2, 2, 2, 2]},
    # it draws (users + items) / batches nodes per batch, at most all users and all items
    "DGCF": {"train_batch_size": 128},
    "GRU4RecKG": {
        "load_col": GRAPH,
        "additional_feat_suffix": ["ent"],
        "alias_of_item_id": ["ent_id"],
        "preload_weight": {"ent_id": "ent_emb"},
    },
    "KSR": {
        "load_col": GRAPH | {"rel": ["rel_id", "rel_emb"]},
        "additional_feat_suffix": ["ent", "rel"],
        "alias_of_entity_id": ["ent_id"],
        "alias_of_relation_id": ["rel_id"],
        "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
    },
}

# the scores are computed when the model is built; their loss is a constant
CLOSED_FORM = {"AsymKNN", "ADMMSLIM", "EASE", "ItemKNN", "NCEPLRec", "Pop", "Random", "SLIMElastic"}


def discover() -> list[str]:
    """Names of all models in RecBole's four packages, by file, as RecBole's own look-up finds them."""
    names = []
    for package in PACKAGES:
        root = importlib.import_module(f"recbole.model.{package}_recommender")
        for module in pkgutil.iter_modules(root.__path__):
            members = vars(importlib.import_module(f"{root.__name__}.{module.name}"))
            names += [name for name in members if name.lower() == module.name and isinstance(members[name], type)]
    return names


def table(path: Path, header: str, rows: list[tuple]) -> None:
    lines = [header.replace(" ", "\t")] + ["\t".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def data_path(tmp_path_factory) -> Path:
    """A folder with the dataset ``tiny``: 40 users x 50 items, 8 to 14 items per user, every suffix RecBole reads."""
    rng = random.Random(0)
    root = tmp_path_factory.mktemp("atomic")
    files = root / "tiny"
    files.mkdir()
    inter = []
    for user in range(N_USERS):
        items = rng.sample(range(N_ITEMS), rng.randint(8, 14))
        inter += [(f"u{user}", f"i{item}", rng.randint(1, 5), time) for time, item in enumerate(items)]
    classes = [" ".join(rng.sample("abcd", rng.randint(1, 3))) for _ in range(N_ITEMS)]
    facts = [(f"e{item}", f"r{rel}", f"e{rng.randrange(N_ITEMS + 9)}") for item in range(N_ITEMS) for rel in range(2)]
    vectors = [" ".join(f"{rng.gauss(0, 1):.3f}" for _ in range(8)) for _ in range(N_ITEMS)]
    table(files / "tiny.inter", "user_id:token item_id:token rating:float timestamp:float", inter)
    table(files / "tiny.user", "user_id:token age:token", [(f"u{u}", 20 + u % 5) for u in range(N_USERS)])
    table(files / "tiny.item", "item_id:token class:token_seq", [(f"i{i}", classes[i]) for i in range(N_ITEMS)])
    table(files / "tiny.kg", "head_id:token relation_id:token tail_id:token", facts)
    table(files / "tiny.link", "item_id:token entity_id:token", [(f"i{i}", f"e{i}") for i in range(N_ITEMS)])
    ent = [(f"{kind}{i}", vectors[i]) for kind in "ie" for i in range(N_ITEMS)]
    table(files / "tiny.ent", "ent_id:token ent_emb:float_seq", ent)
    table(files / "tiny.rel", "rel_id:token rel_emb:float_seq", [(f"r{r}", vectors[r]) for r in range(2)])
    return root


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Where RecBole's trainers may write, and with the environment variable that its Config sets given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def settings(name: str) -> dict:
    """What model ``name`` needs beyond RecBole's defaults to run on a dataset with a ``class`` feature."""
    from recbole.utils import ModelType, get_model

    model = get_model(name)
    needs = dict(SMALL)
    if model.type == ModelType.CONTEXT:
        needs |= {"load_col": FEATURES, "threshold": {"rating": 3}}
    if model.type == ModelType.SEQUENTIAL:
        needs["load_col"] = FEATURES
        mode = "uni10" if name in ("DIN", "DIEN") else "full"
        needs["eval_args"] = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": mode}
        if not hasattr(model, "input_type"):
            needs["train_neg_sample_args"] = None
    return needs | OWN.get(name, {})


def build(name: str, data_path: Path, **extra):
    """Config, loaders and trainer of model ``name`` by RecBole's own functions."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_trainer, init_seed

    config = Config(name, "tiny", config_dict=settings(name) | {"data_path": str(data_path)} | extra)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset)
    return config, train, valid, test, get_trainer(config["MODEL_TYPE"], name)(config, model)


def train_and_score(name: str, data_path: Path) -> None:
    config, train, valid, _, trainer = build(name, data_path)
    model = trainer.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if name == "NCL":
        model.e_step()

    loss = trainer._train_epoch(train, 0)

    parts = loss if isinstance(loss, tuple) else (loss,)
    assert all(math.isfinite(part) for part in parts)
    learned = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    if name not in CLOSED_FORM:
        assert any(not torch.equal(before[key], model.state_dict()[key]) for key in learned)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())

    model.eval()
    batch = next(iter(valid))
    with torch.no_grad():
        if config["eval_args"]["mode"]["valid"] == "full":
            n_items = valid._dataset.item_num
            trainer.tot_item_num, trainer.item_tensor = n_items, valid._dataset.get_item_feature()
            _, scores, _, _ = trainer._full_sort_batch_eval(batch)
            assert scores.shape == (len(batch[0]), n_items)
            scores[:, 0] = 0  # the trainer masks [PAD] and, for general models, the history
            if batch[1] is not None:
                scores[batch[1]] = 0
        else:
            scores = model.predict(batch[0]).reshape(-1)
            assert scores.shape == (len(batch[0]),)
    assert torch.isfinite(scores).all()
    trainer.tensorboard.close()


IGNORED = pytest.mark.filterwarnings(
    # slow or sloppy, but right, and the same on old versions
    "ignore:Creating a tensor from a list of numpy.ndarrays:UserWarning",
    "ignore:divide by zero encountered in power:RuntimeWarning",
)


@IGNORED
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in discover() if name not in EXCLUDED],
)
def test_trains_a_step_and_scores(name, data_path):
    train_and_score(name, data_path)


@IGNORED
@pytest.mark.parametrize("name", EXCLUDED)
def test_excluded_model_needs_the_package(name, data_path):
    package = EXCLUDED[name]
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ModuleNotFoundError, match=package):
        train_and_score(name, data_path)


def test_models_of_every_package_are_discovered():
    names = set(discover())
    assert len(names) == len(discover()) == 92
    assert names >= EXCLUDED.keys()
    assert names >= set(
        "LightGCN NGCF NCL SGL SimpleX MultiVAE EASE ItemKNN Pop NeuMF SpectralCF GCMC SASRec SASRecF FDSA S3Rec "
        "GRU4Rec NARM BERT4Rec SRGNN CORE LightSANs DIN DIEN FM DeepFM CKE CFKG".split()
    )


def test_beyond_accuracy_metrics_against_naive_loops(data_path):
    k = 5
    names = ["ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage"]
    _, train, valid, test, trainer = build(
        "BPR", data_path, metrics=names, topk=[k], valid_metric=f"ItemCoverage@{k}", metric_decimal_place=10
    )
    trainer.fit(train, valid, saved=False, verbose=False)
    result = trainer.evaluate(test, load_best_model=False)

    n_items = test._dataset.item_num
    popularity = Counter(train._dataset.inter_feat["item_id"].tolist())
    rarest = sorted(popularity, key=lambda item: (popularity[item], item))[: max(len(popularity) // 10, 1)]
    lists = []
    for batch in test:
        _, scores, _, _ = trainer._full_sort_batch_eval(batch)
        lists += scores.topk(k).indices.tolist()
    flat = [item for row in lists for item in row]
    times = Counter(flat)
    shares = [times[item] / len(flat) for item in times]
    ranked = sorted(times[item] for item in range(n_items))
    assert result[f"itemcoverage@{k}"] == pytest.approx(len(times) / n_items)
    assert result[f"averagepopularity@{k}"] == pytest.approx(sum(popularity[item] for item in flat) / len(flat))
    assert result[f"shannonentropy@{k}"] == pytest.approx(-sum(p * math.log(p) for p in shares) / len(times))
    gini = sum((2 * rank - n_items - 1) * count for rank, count in enumerate(ranked, start=1))
    assert result[f"giniindex@{k}"] == pytest.approx(gini / len(flat) / n_items)
    assert result[f"tailpercentage@{k}"] == pytest.approx(sum(item in rarest for item in flat) / len(flat))
    trainer.tensorboard.close()


def unlinked(data_path: Path, folder: Path) -> Path:
    """The same dataset, in which no link leads from every fifth item."""
    files = shutil.copytree(data_path / "tiny", folder / "tiny")
    links = [(f"i{i}", f"e{i}") for i in range(N_ITEMS) if i % 5]
    table(files / "tiny.link", "item_id:token entity_id:token", links)
    return folder


@pytest.mark.parametrize("name", ["CFKG", "KGCN", "CKE", "KGNNLS", "KTUP", "MKR", "RippleNet"])
def test_models_with_a_knowledge_graph_run_on_the_same_rows_as_others(name, data_path, tmp_path):
    from recbole_llm import run

    place = {"data_path": str(unlinked(data_path, tmp_path)), "run_dir": str(tmp_path / "runs"), "state": "WARNING"}
    changes = SMALL | place | {"protocol": "rs-full", "epochs": 2}
    result = run(name, "tiny", changes | {"load_col": GRAPH | {"ent": ["ent_id"]}})
    assert result.test_reads == 1 and 0 < result.test["ndcg@10"] < 1
    assert result.split == run("Pop", "tiny", changes | {"load_col": {"inter": GRAPH["inter"]}}).split
