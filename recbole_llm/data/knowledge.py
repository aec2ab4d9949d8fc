"""The knowledge graph around a dataset's items, from RecBole's atomic files ``.kg`` and ``.link``.

An item that ``.link`` ties to an entity is that entity's node; all other entities follow the items. So an item's node
is its id, and a model needs no second numbering.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recbole_llm.data.atomic import read_atomic
from recbole_llm.errors import DataError

KG_COLUMNS, LINK_COLUMNS = ("head_id", "relation_id", "tail_id"), ("item_id", "entity_id")


@dataclass(frozen=True)
class KnowledgeGraph:
    """Items and entities as nodes.

    Attributes:
        n_items: nodes 0 to n_items - 1 are the items, 0 being [PAD], which no edge touches.
        entities: tokens of the other nodes, node n_items on, sorted.
        heads, tails: nodes of each triple [m] int64. relations: place in ``relation_names`` [m] int64.
        relation_names: sorted tokens.
        n_linked: items that are an entity.
    """

    n_items: int
    entities: tuple[str, ...]
    heads: np.ndarray
    relations: np.ndarray
    tails: np.ndarray
    relation_names: tuple[str, ...]
    n_linked: int

    @property
    def n_nodes(self) -> int:
        return self.n_items + len(self.entities)

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Both directions of every edge, each once, as CSR: ``indices[indptr[v]:indptr[v + 1]]`` are v's neighbours.

        Returns:
            indptr [n_nodes + 1] int64, indices [2 m at most] int64, ascending inside a node.
        """
        sources = np.concatenate([self.heads, self.tails])
        targets = np.concatenate([self.tails, self.heads])
        keys = np.unique(targets[sources != targets] * self.n_nodes + sources[sources != targets])
        counts = np.bincount(keys // self.n_nodes, minlength=self.n_nodes)
        return np.concatenate([[0], np.cumsum(counts)]), keys % self.n_nodes

    def permuted(self, rows: np.ndarray) -> "KnowledgeGraph":
        """The graph in which item i has the edges of item ``rows[i]``: the placebo. rows: a permutation of the ids."""
        place = np.empty(self.n_nodes, dtype=np.int64)
        place[self.n_items :] = np.arange(self.n_items, self.n_nodes)
        place[rows] = np.arange(self.n_items)
        return replace(self, heads=place[self.heads], tails=place[self.tails])

    @property
    def summary(self) -> str:
        """One line for the log."""
        return (
            f"knowledge graph: {len(self.heads):,} triples of {len(self.relation_names)} relations, "
            f"{self.n_linked}/{self.n_items - 1} items, {len(self.entities):,} other entities"
        )


def load_knowledge(folder: Path | str, dataset: str, item_tokens: np.ndarray) -> KnowledgeGraph:
    """The graph of a dataset's files.

    Args:
        folder: with ``<dataset>.kg`` and ``<dataset>.link``. item_tokens: by item id, [PAD] first. [n_items] str.
    Raises:
        DataError: a file or column is missing, or no triple touches an item.
    """
    kg, link = (_table(Path(folder), dataset, *which) for which in (("kg", KG_COLUMNS), ("link", LINK_COLUMNS)))
    id_of = {token: k for k, token in enumerate(item_tokens.tolist())}
    node: dict[str, int] = {}
    for item, entity in zip(link["item_id"], link["entity_id"], strict=True):
        if item in id_of:  # the link of an item that no interaction uses
            node.setdefault(entity, id_of[item])
    n_linked = len(node)
    entities = sorted({*kg["head_id"], *kg["tail_id"]} - set(node))
    node |= {token: len(id_of) + k for k, token in enumerate(entities)}
    heads, tails = (
        np.array([node[token] for token in kg[column]], dtype=np.int64) for column in ("head_id", "tail_id")
    )
    if not ((heads < len(id_of)) | (tails < len(id_of))).any():
        raise DataError(
            f"no triple of {dataset}.kg touches an item of the interactions; {dataset}.link must tie item_id to the "
            "entity_id that the triples use"
        )
    names, relations = np.unique(kg["relation_id"].to_numpy().astype(str), return_inverse=True)
    return KnowledgeGraph(
        len(id_of), tuple(entities), heads, relations.astype(np.int64), tails, tuple(names.tolist()), n_linked
    )


def _table(folder: Path, dataset: str, suffix: str, columns: tuple[str, ...]):
    path = folder / f"{dataset}.{suffix}"
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; a model with a knowledge graph needs it: make it, or set use_kg: false"
        )
    table = read_atomic(path)
    if missing := [column for column in columns if column not in table]:
        raise DataError(f"{path} has no column '{missing[0]}' (columns: {', '.join(table)}); rename it")
    return table
