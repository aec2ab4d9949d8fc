"""Vectors of users and items whose inner product ranks as the model does."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_llm.data.feature_file import save_feature
from recbole_llm.errors import ConfigError
from recbole_llm.serving.files import check_embeddings_file
from recbole_llm.serving.recommender import Recommender

_PROBED = 32  # users on whom the inner product is compared with the model's scores
_TOLERANCE = 1e-4  # of the range of a user's scores: what float32 sums in another order may differ by


@torch.no_grad()
def embeddings(recommender: Recommender) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of all users and items, by id.

    They are the vectors that graph models score by, else the embedding tables; whatever they are, their inner products
    must order all items as the model's scores do, for users from all over the dataset.

    Returns:
        [n_users, D] and [n_items, D] float32; row 0 is [PAD].
    Raises:
        ConfigError: when the model has no such vectors.
    """
    data, model = recommender.data, recommender.model
    n_users, n_items = data.base.user_num, data.n_items
    probed = np.unique(np.linspace(1, n_users - 1, _PROBED).astype(np.int64))
    scores = recommender.scorer(probed)(np.arange(len(probed))).double().cpu().numpy()[:, 1:]
    for users, items in _candidates(model):
        items = items[:n_items]  # knowledge graphs: items are the first entities
        if users.dim() != 2 or len(users) != n_users or items.shape != (n_items, users.shape[1]):
            continue
        users, items = (table.detach().float().cpu().numpy() for table in (users, items))
        products = users[probed].astype(np.float64) @ items[1:].astype(np.float64).T
        if ranks_alike(products, scores):
            return np.ascontiguousarray(users), np.ascontiguousarray(items)
    raise ConfigError(
        f"{data.config['model']} has no vectors of users and items whose inner product ranks as the model does; export "
        "its recommendations instead"
    )


def ranks_alike(products: np.ndarray, scores: np.ndarray) -> bool:
    """Whether scores never rise where the products fall or stay the same, but for rounding. [n, m] each.

    Scores that are all equal tell nothing, so one user at least needs different ones.
    """
    ranges = np.ptp(scores, axis=1)
    for product, score, width in zip(products, scores, ranges, strict=True):
        ordered = score[np.lexsort((score, -product))]  # equal products: ascending, so that a difference is a rise
        if not (ordered[1:] - np.minimum.accumulate(ordered)[:-1] <= _TOLERANCE * width).all():
            return False
    return bool((ranges > 0).any())


def _candidates(model) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of tables that the model may score by, the likeliest first."""
    for pair in (("restore_user_e", "restore_item_e"), ("restore_user_e", "restore_entity_e")):  # kept after scoring
        tables = [getattr(model, name, None) for name in pair]
        if all(isinstance(table, Tensor) for table in tables):
            yield tables[0], tables[1]
    if not inspect.signature(model.forward).parameters:  # RecBole's graph models: all users, all items
        found = model.forward()
        if isinstance(found, tuple) and len(found) >= 2 and all(isinstance(table, Tensor) for table in found[:2]):
            yield found[0], found[1]
    tables = [getattr(model, name, None) for name in ("user_embedding", "item_embedding")]
    if all(isinstance(table, torch.nn.Embedding) for table in tables):
        yield tables[0].weight, tables[1].weight


def save_embeddings(recommender: Recommender, users: Path | None = None, items: Path | None = None) -> tuple[int, int]:
    """Write vectors as feature files, a row a token, [PAD] left out.

    Args:
        users, items: files to write, ``.safetensors``; None writes none.
    Returns:
        Rows written of users and of items.
    Raises:
        ConfigError: see :func:`embeddings`; another ending.
    """
    base, config = recommender.data.base, recommender.data.config
    for path in filter(None, (users, items)):
        check_embeddings_file(path)
    tables = embeddings(recommender)
    sides = zip((users, items), tables, (base.uid_field, base.iid_field), strict=True)
    facts = {"encoder": config["model"], "dataset": config["dataset"]}
    facts |= {"protocol": config["protocol"], "split": recommender.data.split.fingerprint}  # loads under this one alone
    written = []
    for path, table, id_field in sides:
        if path is not None:
            save_feature(path, base.field2id_token[id_field][1:], table[1:], id_field, facts)
        written.append(0 if path is None else len(table) - 1)
    return written[0], written[1]
