"""Synthetic datasets whose next item is known, and settings small enough to train on them in seconds."""

from pathlib import Path

import numpy as np

from recbole_llm.data.feature_store import save_feature

FACETS = ("content", "theme", "quality", "visual", "genre", "mood", "style")
N_ITEMS, N_USERS, N_STEPS = 24, 30, 20
COLD_ITEMS = ("i24", "i25")  # of the checkerboard: one of each colour, never in a training row
BOARD_TOKENS = [*(f"i{k}" for k in range(N_ITEMS)), *COLD_ITEMS]

SMALL_SASREC = {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "inner_size": 32, "hidden_dropout_prob": 0.1}
SMALL_UR4REC = {
    "sasrec_hidden_dim": 16,
    "sasrec_num_blocks": 1,
    "sasrec_num_heads": 2,
    "sasrec_inner_dim": 32,
    "sasrec_dropout": 0.1,
    "item_text_dim": 8,
    "facet_dim": 8,
    "retriever_num_heads": 2,
    "expert_inner_dim": 16,
    "gate_dim": 8,
    "num_proxies": 4,
    "retriever_dropout": 0.1,
    "sasrec_loss": "infonce",
    "num_negatives": 10,
    "retriever_chunks": 16,
    "score_heads": {},
    "fusion": "gate",
    "moe": "hierarchical",
    "num_sub_experts": 3,
    "item_facets": ["content", "theme", "quality"],
    "visual_facets": ["visual"],
    "user_facets": ["genre", "mood", "style"],
}
SMALL_LLMREC = {
    "item_features": ["content", "genre"],
    "item_facets": ["mood", "style"],
    "text_dim": 8,
    "text_weight": 0.5,
    "attribute_weight": 0.2,
    "attribute_loss_weight": 0.1,
    "text_loss_weight": 0.1,
    "image_loss_weight": 0.1,
}


def cycle_settings(folder: Path) -> dict:
    """Settings for the dataset ``cycle`` below ``folder``."""
    return {
        "data_path": str(folder),
        "features": {name: {"side": "item"} for name in FACETS},
        "MAX_ITEM_LIST_LENGTH": 8,
        "chunk_batch_size": 16,
        "use_gpu": False,
        "seed": 3,
    }


def write_cycle(folder: Path, facet_dim: int = 12, n_items: int = N_ITEMS, file_order=None) -> Path:
    """Atomic files of dataset ``cycle`` below ``folder``: user u visits items u, u + 1, ... of the cycle.

    Each item's feature rows are random but belong to its token, whatever the order of the file.
    """
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for u in range(N_USERS):
        for t in range(N_STEPS):
            lines.append(f"u{u}\ti{(u + t) % n_items}\t{3 + (u + t) % 3}\t{1000 * t + u}")
    rng = np.random.default_rng(5)
    rows = {name: rng.normal(size=(n_items, facet_dim)) for name in FACETS}
    _write(folder, "cycle", lines, rows, np.arange(n_items) if file_order is None else np.asarray(file_order))
    return folder


def write_clusters(
    folder: Path, n_clusters: int = 6, per_cluster: int = 60, n_users: int = 80, n_steps: int = 10
) -> Path:
    """Atomic files of dataset ``clusters`` below ``folder``: a user's next item is any item of his cluster.

    Item tokens are ``c<cluster>-<k>``. The facets of an item tell its cluster; its id, seen twice or so, hardly can.
    """
    rng = np.random.default_rng(7)
    tokens = [f"c{c}-{k}" for c in range(n_clusters) for k in range(per_cluster)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for u in range(n_users):
        first = rng.integers(n_clusters) * per_cluster
        lines += [f"u{u}\t{tokens[first + rng.integers(per_cluster)]}\t{t}" for t in range(n_steps)]
    centres = np.repeat(rng.normal(size=(n_clusters, 8)), per_cluster, 0)
    rows = {name: centres + 0.2 * rng.normal(size=centres.shape) for name in FACETS}
    _write(folder, "clusters", lines, rows, np.arange(len(tokens)), tokens)
    return folder


def checkerboard_settings(folder: Path) -> dict:
    """Settings for the dataset ``checkerboard`` below ``folder``; by time, so that it is known who is held out."""
    return {
        "data_path": str(folder),
        "features": {name: {"side": "item", "missing": "learned"} for name in FACETS},
        "protocol": "loo-full",
        "embedding_size": 16,
        "train_batch_size": 64,
        "use_gpu": False,
        "seed": 3,
    }


def write_checkerboard(folder: Path, other_held_out: bool = False, file_order=None) -> Path:
    """Atomic files of dataset ``checkerboard`` below ``folder``: users of even number like even items, odd ones odd.

    A user visits 10 of the 12 items of his colour; by time, the last two are validation and test. ``COLD_ITEMS`` are
    test items of users 0 and 1 and nothing else. A feature row tells the colour of its item, with noise.

    Args:
        other_held_out: the items held out (but the cold ones) are others, not of the user's colour; all else is equal.
        file_order: rows of the feature files, by number of the item; items left out have no row.
    """
    rng = np.random.default_rng(5)
    visits = np.stack([rng.permutation(np.arange(u % 2, N_ITEMS, 2))[:10] for u in range(N_USERS)])
    visits[0, -1], visits[1, -1] = N_ITEMS, N_ITEMS + 1
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for t in range(visits.shape[1]):  # held-out rows come last in the file too: ids follow the order of appearance
        for u, item in enumerate(visits[:, t]):
            moved = other_held_out and t >= 8 and item < N_ITEMS
            lines.append(f"u{u}\ti{(item + 1) % N_ITEMS if moved else item}\t{1000 * t + u}")
    colour = 1.0 - 2.0 * (np.arange(len(BOARD_TOKENS)) % 2)
    rows = {}
    for name in FACETS:
        direction = rng.normal(size=12)
        rows[name] = np.outer(colour, direction) + 0.7 * rng.normal(size=(len(colour), 12))
    order = np.arange(len(colour)) if file_order is None else np.asarray(file_order)
    _write(folder, "checkerboard", lines, rows, order, BOARD_TOKENS)
    return folder


def _write(folder: Path, name: str, lines: list[str], rows, order: np.ndarray, tokens: list[str] | None = None) -> None:
    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokens = tokens or [f"i{k}" for k in range(len(order))]
    for feature, matrix in rows.items():
        path = home / f"{name}.{feature}.safetensors"
        save_feature(path, [tokens[k] for k in order], matrix[order].astype(np.float32), "item_id", {"encoder": "test"})
