"""From a config to data: dataset, split, aligned features, training loader, evaluation data."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from recbole.data import get_dataloader
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
from recbole.data.dataset import Dataset
from recbole.sampler import KGSampler, RepeatableSampler, Sampler
from recbole.utils import ModelType

from recbole_llm.data.dataset import RecData, load_data
from recbole_llm.data.derived import load_edges
from recbole_llm.data.feature_store import AlignedFeature, load_features
from recbole_llm.data.knowledge import load_knowledge
from recbole_llm.errors import ConfigError
from recbole_llm.evaluation.task import EvalTask
from recbole_llm.experiment.record import IMPRESSION_DATA, IMPRESSION_ROWS, PHASED_DATA, PHASED_RUN
from recbole_llm.model.content import trim_heap
from recbole_llm.paths import dataset_atomic_dir
from recbole_llm.registry import import_attribute, model_spec, resolve_model
from recbole_llm.trainer.eval_data import EvalData
from recbole_llm.trainer.pooled_data import PooledData

FACET_KEYS = (
    "user_facets", "item_facets", "visual_facets", "item_features", "user_features", "review_features",
    "entity_features",
)  # fmt: skip
REVIEW_FIELD = "review_id"  # column of the interactions that names the review a user wrote


def build_data(config) -> RecData:
    """Dataset and split of a config, with the features that its model names (see FACET_KEYS) aligned by token."""
    spec = model_spec(config["model"])
    augment = spec is None or spec.loader is None
    if config["phases"] or config["impressions"]:
        labelled = spec is not None and spec.labelled
        load = import_attribute(PHASED_DATA if config["phases"] else IMPRESSION_DATA)
        data = load(config, augment=augment, labelled=labelled)
    else:
        data = load_data(config, augment=augment)
    wanted = list(dict.fromkeys(name for key in FACET_KEYS for name in config[key] or []))
    if config["use_kg"]:
        items = data.base.iid_field
        data.knowledge = load_knowledge(config["data_path"], config["dataset"], data.base.field2id_token[items])
    if wanted:
        data.features = named_features(config, data, wanted)
    if data.knowledge is not None and config["placebo"] == "shuffle":
        sizes = {f.id_field: len(f.matrix) for f in data.features.values()} | {items: data.n_items}
        data.knowledge = data.knowledge.permuted(_shuffled_rows(sizes, config["split_seed"])[items])
    data.features = control(data.features, config["placebo"], config["split_seed"], data)
    if config["edges"] and config["edges"] != "embedding":
        data.proposed_edges = load_edges(config["edges"], data)
    return data


def build_model(config, data: RecData):
    """The model of a config on its device, with RecBole's graph products replaced under ``fast_graph``."""
    model_class = resolve_model(config["model"], fast_graph=bool(config["fast_graph"]))
    return model_class(config, data.train).to(config["device"])


def release_features(data: RecData) -> None:
    """Drop the features' rows once the model is built, and give freed memory back to the system.

    Under ``phases`` models are built again.
    """
    if data.config["phases"]:
        return
    for name, feature in data.features.items():
        data.features[name] = feature.released()
    trim_heap()


def named_features(config, data: RecData, wanted: list[str]) -> dict[str, AlignedFeature]:
    """Features by name, aligned with the dataset and made under no other split.

    Raises:
        ConfigError: for a name that the dataset does not offer.
        FeatureError, SplitMismatchError: see ``load_features``.
    """
    base = data.base
    offered = config["features"] or {}
    missing = [name for name in wanted if name not in offered]
    if missing:
        raise ConfigError(
            f"feature '{missing[0]}' is not among the features of dataset '{config['dataset']}' "
            f"({', '.join(offered) or 'none'}); {_other_name(config, missing[0])}add it under features in a config file"
        )
    id_fields = {"item": base.iid_field, "user": base.uid_field}
    tokens = {name: base.field2id_token[name] for name in id_fields.values()}
    if data.knowledge is not None:
        tokens["entity_id"] = np.array(["[PAD]", *data.knowledge.entities])
    if REVIEW_FIELD in base.inter_feat:
        tokens[REVIEW_FIELD] = base.field2id_token[REVIEW_FIELD]
    return load_features(
        {name: offered[name] for name in wanted},
        [Path(config["data_path"]), dataset_atomic_dir() / config["dataset"]],
        config["dataset"],
        tokens,
        id_fields=id_fields,
        split=(data.split.fingerprint, config["protocol"]),
    )


def _other_name(config, feature: str) -> str:
    """``name others in item_features, or ``: by the setting that names the feature, where one does."""
    return next((f"name others in {key}, or " for key in FACET_KEYS if feature in (config[key] or [])), "")


def control(features: dict[str, AlignedFeature], kind: str | None, seed: int, data: RecData):
    """Features that carry no, or only fame, knowledge about their item, for the control rows of a table.

    ``shuffle`` (the placebo): the rows of all items change places, by one permutation for all features, so that an
    item's facets still fit each other, but not the item. ``popularity``: how often the item was used in training is all
    that its row tells (8 radial basis functions of the log count): language models know which items are famous. Users'
    and reviews' features are treated alike.
    """
    if kind in (None, "none"):
        return features
    if kind == "shuffle":
        rows = _shuffled_rows({f.id_field: len(f.matrix) for f in features.values()}, seed)
        return {
            name: replace(f, matrix=f.matrix[rows[f.id_field]], present=f.present[rows[f.id_field]])
            for name, f in features.items()
        }
    if kind == "popularity":
        if data.knowledge is not None:
            raise ConfigError("placebo: popularity is one of features, not of a graph; set use_kg to false")
        fame = {id_field: _fame(data.counts(id_field)) for id_field in {f.id_field for f in features.values()}}
        return {
            name: replace(f, matrix=fame[f.id_field], present=np.arange(len(f.present)) > 0)
            for name, f in features.items()
        }
    raise ConfigError(f"placebo is '{kind}'; choose none, shuffle or popularity")


def _shuffled_rows(sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """Id field -> which id's row each id gets, [PAD]'s its own. [n] int64 each."""
    rng = np.random.default_rng(seed)
    return {field: np.concatenate([[0], 1 + rng.permutation(size - 1)]) for field, size in sizes.items()}


def _fame(counts: np.ndarray) -> np.ndarray:
    """Radial basis functions of the log of counts, none for [PAD]. [n] int64 -> [n, 8] float32."""
    log_count = np.log1p(counts)
    centres = np.linspace(0, log_count.max(), 8)
    fame = np.exp(-0.5 * ((log_count[:, None] - centres) / (centres[1] or 1.0)) ** 2).astype(np.float32)
    fame[0] = 0.0
    return fame


def features_hash(features: dict[str, AlignedFeature]) -> str:
    """sha256 over names and aligned contents; "" without features."""
    text = "\n".join(f"{name} {f.fingerprint}" for name, f in sorted(features.items()))
    return hashlib.sha256(text.encode()).hexdigest() if features else ""


def train_loader(config, data: RecData, over: Dataset | None = None):
    """The loader named in the registry, or RecBole's for the model; negatives are drawn knowing training rows only.

    Args:
        over: the rows to go through, where they are not all training rows.
    """
    spec, train = model_spec(config["model"]), data.train
    over = train if over is None else over
    if spec is not None and spec.loader is not None:
        return import_attribute(spec.loader)(config, over)
    negatives = config["train_neg_sample_args"]
    sampler = None
    if negatives["distribution"] != "none":
        if config["repeatable"]:
            sampler = RepeatableSampler(["train"], train, negatives["distribution"], negatives["alpha"])
        else:
            sampler = Sampler(["train"], [train], negatives["distribution"], negatives["alpha"])
        sampler = sampler.set_phase("train")
    loader = get_dataloader(config, "train")
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        kg_sampler = KGSampler(train, negatives["distribution"], negatives["alpha"])
        of_graph = loader(config, over, sampler, kg_sampler, shuffle=True)
        of_graph.dataset = over  # RecBole's collector asks for it, and this loader, unlike its others, has none
        return of_graph
    return loader(config, over, sampler, shuffle=config["shuffle"])


def eval_data(config, data: RecData, part: str):
    """Evaluation data of "valid", or of "test", which opens the test split (once a run)."""
    split = data.split
    if config["phases"]:
        rows = split.validation if part == "valid" else split.open_phases()
        pool = pooled_data(config, data, rows.evaluation)
        phase = config["valid_metric"].lower().partition("/")[0]
        if part == "valid" and phase != pool.phase:
            measure = import_attribute(PHASED_RUN)
            pool.in_phases = lambda model: measure(config, data, model, part, until=phase)[0]
        return pool
    known = split.train if part == "valid" else np.concatenate([split.train, split.valid])
    targets = split.valid if part == "valid" else split.open_test()
    if config["impressions"]:
        return import_attribute(IMPRESSION_ROWS)(
            inputs=data.inputs(targets, known),
            user_ids=data.user_ids[targets],
            labels=data.labels[targets],
            batch_size=config["eval_batch_size"],
            groups=None if data.groups is None else data.groups[targets],
            base_rate=float(data.labels[split.train].mean()),
            final=part == "test",
        )
    if config["evaluator"] == "recbole":
        return _recbole_eval_data(config, data, part, known, targets)
    own = {key: config[key] for key in ("n_candidates", "mask_history", "candidate_items")}
    settings = {None: own} | (config["secondary_tasks"] or {})
    tasks = [_task(config, data, part, name, how, known, targets) for name, how in settings.items()]
    return EvalData(
        tasks=tasks,
        inputs=data.histories(tasks[0].user_ids, known),
        item_inputs=data.train.get_item_feature(),
        item_counts=data.item_counts,
        known_dataset=lambda: data.subset(known),
        metrics=config["metrics"],
        topk=config["topk"],
        batch_size=config["eval_batch_size"],
    )


def pooled_data(config, data: RecData, rows: np.ndarray) -> PooledData:
    """The rows as pairs to score, for a model that knows none of their items."""
    return PooledData(
        inputs=data.pairs(rows),
        user_ids=data.user_ids[rows],
        labels=data.labels[rows],
        phase="cold",
        batch_size=config["eval_batch_size"],
    )


def _task(config, data: RecData, part: str, name: str | None, how: dict, known, targets) -> EvalTask:
    n, cold = how.get("n_candidates"), how.get("candidate_items") == "cold"
    candidates = data.candidates(part, targets, n, config["candidate_seed"]) if n else None
    if cold:
        candidates = _cold_candidates(data, part, targets, n)
    return EvalTask.build(
        name or ("cold" if cold else f"cand{n + 1}" if n else "full"),
        part,
        data.n_items,
        targets=(data.user_ids[targets], data.item_ids[targets]),
        known=(data.user_ids[known], data.item_ids[known]),
        candidates=candidates,
        mask_history=bool(how.get("mask_history", True)),
        split_fingerprint=data.split.fingerprint,
        seed=config["candidate_seed"],
    )


def _cold_candidates(data: RecData, part: str, targets: np.ndarray, n: int | None) -> np.ndarray:
    """The cold items of the part, for every user with a target. [n_users, n_cold] int64."""
    cold = data.cold_items[part]
    if n or not len(cold) or not np.isin(data.item_ids[targets], cold).all():
        raise ConfigError(
            "candidate_items: cold ranks the cold items alone, so it needs cold_items above 0, no n_candidates, and a "
            "protocol that holds out nothing else; use protocol: item-cold"
        )
    return np.broadcast_to(cold, (len(np.unique(data.user_ids[targets])), len(cold)))


def _recbole_eval_data(config, data: RecData, part: str, known, targets):
    """RecBole's own full-sort loader over the same split, to compare with published RecBole numbers."""
    if config["n_candidates"] or config["secondary_tasks"] or config["candidate_items"] == "cold":
        raise ConfigError(
            "evaluator: recbole ranks all items; set n_candidates to null, candidate_items to all and secondary_tasks "
            "to {}"
        )
    if config["eval_args"]["mode"][part] == "labeled":  # the held-out rows themselves, by their labels
        return NegSampleEvalDataLoader(config, data.subset(targets), None, shuffle=False)
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    spec = model_spec(config["model"])
    if sequential and spec is not None and spec.loader is not None:
        raise ConfigError(f"evaluator: recbole needs RecBole's augmented rows, which {config['model']} does not use")
    if sequential:  # augmented rows whose target is held out; RecBole masks no history here
        rows = data.by_time(np.concatenate([known, targets]))
        rows = rows[np.argsort(data.user_ids[rows], kind="stable")]
        held_out = data.subset(rows)  # one augmented row for each but the first row of a user
        later = np.r_[False, np.diff(data.user_ids[rows]) == 0]
        chosen = np.flatnonzero(np.isin(rows[later], targets))
        held_out.inter_feat = held_out.inter_feat[torch.from_numpy(chosen)]
        return FullSortEvalDataLoader(config, held_out, None, shuffle=False)
    held_out, seen = data.subset(targets), data.subset(known)
    sampler = Sampler(["train", part], [seen, held_out], "uniform", 1.0).set_phase(part)
    return FullSortEvalDataLoader(config, held_out, sampler, shuffle=False)
