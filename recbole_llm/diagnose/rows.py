"""What the checks read of a dataset, and the scores of a model: training and validation rows, never test rows."""

import inspect
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from recbole.utils import FeatureType
from scipy import sparse
from scipy.stats import rankdata

from recbole_llm.diagnose.scores import Scored
from recbole_llm.experiment.data import eval_data, pooled_data

_PAIRS, _USERS, _SCORES = 20_000, 256, 4_000_000  # labelled pairs, users and scores looked at: seconds on one core
FOLLOWS_TIME = (
    0.8  # share of the variance of the ranks of times that a column explains: a protocol by time splits by it
)


def labels_of(data) -> np.ndarray | None:
    """Label of every row of the base dataset, None where there are none. [rows] bool."""
    if data.config["phases"] or data.config["impressions"]:
        return data.labels
    field = data.config["LABEL_FIELD"]
    if field not in data.base.inter_feat:
        return None
    return data.base.inter_feat[field].to_numpy() > 0


def uses(data, feature) -> np.ndarray:
    """Training interactions an id of a feature; of entities of a graph, which are in none, 1 each. [n] int64."""
    if feature.id_field in data.base.inter_feat:
        return data.counts(feature.id_field)
    return (np.arange(len(feature.present)) > 0).astype(np.int64)


def columns_of(data) -> Iterator[tuple[str, np.ndarray, bool, bool]]:
    """Columns beside ids and label, a value a row of the base dataset: name, values, tokens?, of the interactions?"""
    base, config = data.base, data.config
    left_out = {base.uid_field, base.iid_field, config["LABEL_FIELD"]}
    sides = (
        (base.inter_feat, None, None),
        (base.item_feat, base.iid_field, data.item_ids),
        (base.user_feat, base.uid_field, data.user_ids),
    )
    for frame, id_field, ids in sides:
        for name in () if frame is None else frame.columns:
            kind = base.field2type[name]
            if name in left_out or kind not in (FeatureType.TOKEN, FeatureType.FLOAT):
                continue
            values = frame[name].to_numpy()
            if values.dtype == object:
                continue
            if id_field is not None:
                of_id = np.zeros(base.num(id_field), dtype=values.dtype)
                of_id[frame[id_field].to_numpy().astype(np.int64)] = values
                values = of_id[ids]
            yield name, values, kind == FeatureType.TOKEN, id_field is None


def follows_time(values: np.ndarray, times: np.ndarray | None, tokens: bool) -> bool:
    """Whether a column orders rows as time does, such as a date. values, times: [n]."""
    if times is None or len(times) < 2:
        return False
    ranks = rankdata(times)
    if ranks.std() == 0:
        return False
    if not tokens:
        own = rankdata(np.nan_to_num(values.astype(np.float64)))
        return bool(own.std() > 0 and np.corrcoef(own, ranks)[0, 1] ** 2 >= FOLLOWS_TIME)
    ids = values.astype(np.int64)
    counts = np.bincount(ids)
    means = np.bincount(ids, weights=ranks) / np.maximum(counts, 1)
    return bool(np.var(means[ids]) / np.var(ranks) >= FOLLOWS_TIME and counts.max() > 1)


def interactions(data, rows: np.ndarray) -> sparse.csr_matrix:
    """Rows as a matrix of users by items, 1 where there is one. [n_users, n_items] float32."""
    shape = (data.base.user_num, data.n_items)
    found = sparse.coo_matrix((np.ones(len(rows), np.float32), (data.user_ids[rows], data.item_ids[rows])), shape)
    found = found.tocsr()
    found.data[:] = 1.0  # a pair that occurs twice is one
    return found


@torch.no_grad()
def score_validation(config, data, model, trained: bool, unpersonal: bool) -> tuple[Scored | None, str]:
    """Scores of validation rows, or None and why there are none.

    Args:
        unpersonal: whether the model is a closed form.
    """
    model.eval()
    device, how = config["device"], {"trained": trained, "unpersonal": unpersonal}
    logits = config["loss"] == "bce"  # LLMRec and EmerGLLMRec then score by logits; RecBole's models by probabilities
    if config["phases"]:
        evaluation = data.split.validation.evaluation
        pool = pooled_data(config, data, evaluation[_some(len(evaluation), _PAIRS)])
        scores = pool.scores(model, device)[:, None]
        return _pairs(scores, pool.labels, logits=logits, **how), ""
    if config["impressions"]:
        shown = eval_data(config, data, "valid")
        taken = _some(len(shown.labels), _PAIRS)
        shown = replace(shown, inputs=shown.inputs[torch.from_numpy(taken)], labels=shown.labels[taken])
        return _pairs(shown.scores(model, device)[:, None], shown.labels, **how), ""
    if config["evaluator"] == "recbole":
        label = config["LABEL_FIELD"]
        if config["eval_args"]["mode"]["valid"] != "labeled" or label not in data.base.inter_feat:
            return None, "not looked at under evaluator: recbole; set evaluator: recbole_llm"
        held_out = data.subset(data.split.valid[_some(len(data.split.valid), _PAIRS)])
        inputs = held_out.join(held_out.inter_feat)
        size = int(config["eval_batch_size"])
        found = [model.predict(inputs[k : k + size].to(device)) for k in range(0, len(inputs), size)]
        scores = torch.cat([x.double().cpu().view(-1) for x in found]).numpy()[:, None]
        return _pairs(scores, inputs[label].numpy() > 0, logits=logits, **how), ""
    valid = eval_data(config, data, "valid")
    task, score = valid.tasks[0], valid.scorer(model, device)
    rows = _some(len(task), max(2, min(_USERS, _SCORES // task.n_items)))
    found = [score(rows[k : k + 64]).double().cpu().numpy() for k in range(0, len(rows), 64)]
    scores = np.concatenate(found)
    labels, counted = np.zeros(scores.shape, dtype=bool), np.ones(scores.shape, dtype=bool)
    counted[:, 0] = False  # [PAD]
    for k, row in enumerate(rows):
        labels[k, task.pos_items[task.pos_indptr[row] : task.pos_indptr[row + 1]]] = True
        counted[k, task.mask_items[task.mask_indptr[row] : task.mask_indptr[row + 1]]] = False
    return Scored(scores, labels, counted, **how), ""


def _pairs(scores: np.ndarray, labels: np.ndarray, **how) -> Scored:
    return Scored(scores, labels[:, None], np.ones(scores.shape, dtype=bool), pairs=True, **how)


def _some(n: int, most: int) -> np.ndarray:
    """Positions from all over 0..n-1, at most so many, ascending. int64."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.empty(0, np.int64)


@torch.no_grad()
def item_vectors(model, n_items: int) -> tuple[np.ndarray | None, str]:
    """Vectors of all items by id, and where they are from; None and "" where the model has no table of them."""
    own, scoring = getattr(model, "item_vectors", None), getattr(model, "scoring_vectors", None)
    candidates = {
        "item_vectors()": own() if callable(own) and not inspect.signature(own).parameters else None,
        "scoring vectors": scoring()[1] if callable(scoring) else None,
        "propagated vectors": getattr(model, "restore_item_e", None),
        "item_embedding": getattr(getattr(model, "item_embedding", None), "weight", None),
    }
    for what, table in candidates.items():
        if isinstance(table, torch.Tensor) and table.dim() == 2 and len(table) >= n_items:
            return table[:n_items].float().cpu().numpy(), what
    return None, ""
