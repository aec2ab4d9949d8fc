"""The feature graphs of items: which of an item's fields a trained EmerGLLMRec lets interact, and how strongly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment import load
from recbole_llm.experiment.audit import normal
from recbole_llm.registry import did_you_mean
from recbole_llm.serving.recommender import titles_of

N_SHOWN = 6  # items when none are named
_COMPARED = 20_000  # an unknown name is compared with so many known ones


@dataclass(frozen=True)
class ItemGraph:
    """One item's graph.

    Attributes:
        item: token. title: "" where the data has none. n_interactions: of training; 0 is a cold item.
        fields: names, in the order of rows and columns.
        weights: adjacency of the first layer, symmetric, diagonal 1. [n, n] float32 in [0, 1].
        present: which fields the item has; the others play no part, whatever their weights. [n] bool.
    """

    item: str
    title: str
    n_interactions: int
    fields: tuple[str, ...]
    weights: np.ndarray
    present: np.ndarray

    @property
    def name(self) -> str:
        """Title and token, or the token alone."""
        return f"{self.title} ({self.item})" if self.title else self.item

    def strongest(self, n: int = 5) -> list[tuple[str, str, float]]:
        """The heaviest edges between two fields that the item has, heaviest first; fewer where fewer are there."""
        rows, columns = np.triu_indices(len(self.fields), k=1)
        there = self.present[rows] & self.present[columns] & (self.weights[rows, columns] > 0)
        rows, columns = rows[there], columns[there]
        order = np.argsort(-self.weights[rows, columns], kind="stable")[:n]
        return [
            (self.fields[rows[k]], self.fields[columns[k]], float(self.weights[rows[k], columns[k]])) for k in order
        ]


def item_graphs(run: str | Path, items: Sequence[str] = ()) -> list[ItemGraph]:
    """Graphs of named items of a run.

    Args:
        run: folder of a finished run of EmerGLLMRec.
        items: tokens or titles; none: the most used items and, where there are any, as many that nobody has used.
    Returns:
        One an item, in the order given.
    Raises:
        ConfigError: for a run of another model, or one whose graphs are off. DataError: for an unknown item.
        CheckpointError: for what is no finished run.
    """
    model, data = load(run)
    if not hasattr(model, "feature_graphs"):
        raise ConfigError(f"{data.config['model']} has no feature graphs; name a run of EmerGLLMRec")
    if getattr(model, "interaction", None) is None:
        raise ConfigError(f"{run} was trained with use_enhanced_gnn: false, so its items have no graphs")
    tokens = data.base.field2id_token[data.base.iid_field]
    titles = titles_of(data.config) or {}
    counts = data.item_counts
    ids = np.array([_item_id(item, data, titles) for item in items], dtype=np.int64)
    if not len(ids):
        by_use = 1 + np.argsort(-counts[1:], kind="stable")
        cold = by_use[counts[by_use] == 0][: N_SHOWN // 2]
        ids = np.concatenate([by_use[: N_SHOWN - len(cold)], cold])
    device = next(model.parameters()).device
    weights, present = (x.cpu().numpy() for x in model.feature_graphs(torch.from_numpy(ids).to(device)))
    return [
        ItemGraph(
            item=str(tokens[i]),
            title=titles.get(str(tokens[i]), ""),
            n_interactions=int(counts[i]),
            fields=tuple(model.field_names),
            weights=weights[k],
            present=present[k],
        )
        for k, i in enumerate(ids)
    ]


def _item_id(name: str, data, titles: Mapping[str, str]) -> int:
    """Id of an item by its token, or by its title, in part where only one item's has it."""
    id_of = data.base.field2token_id[data.base.iid_field]
    if id_of.get(name):  # 0 is [PAD]
        return id_of[name]
    wanted = normal(name)
    by_title = {token: normal(title) for token, title in titles.items() if id_of.get(token)}
    for fits in (lambda title: title == wanted, lambda title: wanted and f" {wanted} " in f" {title} "):
        found = [token for token, title in by_title.items() if fits(title)]
        if len(found) == 1:
            return id_of[found[0]]
        if found:
            names = ", ".join(f"{titles[token]} ({token})" for token in found[:3])
            raise DataError(f"{len(found)} items are called like '{name}', among them {names}; name one by its token")
    known = [*map(str, data.base.field2id_token[data.base.iid_field][1:]), *titles.values()]
    hint = did_you_mean(name, known[:_COMPARED]) or "; name items by token or title"
    raise DataError(f"dataset '{data.config['dataset']}' has no item '{name}'{hint}")
