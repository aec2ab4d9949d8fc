"""Edges (user, liked item, disliked item) that augment the training interactions, chosen by texts instead of asking.

Wei et al. 2024 (LLMRec, https://arxiv.org/abs/2311.00423, sect. 3.1) let a language model choose among the candidates
of a base recommender. Edges that one has chosen are a file of ``recbole-llm augment --kind edges``; this is its
``--proposer embedding`` at training time, where the file would have to be made anew for every split.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.model.general.rp3beta import walk_weights

_USERS_AT_ONCE = 512


def embedding_edges(interactions, text: Tensor, present: Tensor, n_candidates: int) -> Tensor:
    """Of each user's best candidates, the one nearest to what he used, and the one farthest from it, by text.

    Candidates come from a random walk of three steps (RP3beta, alpha 1, beta 0.6) over the training interactions.

    Args:
        interactions: training interactions as ones. scipy CSR [U, N].
        text: rows of the items [N, F'] float32; present: which exist [N] bool.
        n_candidates: candidates a user, >= 2.
    Returns:
        (user, liked, disliked) of every user with interactions and two candidates that differ. [E, 3] int64.
    """
    weights = walk_weights(interactions, 1.0, 0.6, 0)
    unit = F.normalize(text, dim=-1).numpy()
    usable = present.numpy().copy()
    usable[0] = False
    found = []
    active = np.flatnonzero(np.diff(interactions.indptr))
    for start in range(0, len(active), _USERS_AT_ONCE):
        users = active[start : start + _USERS_AT_ONCE]
        known = interactions[users]
        scores = np.asarray(known @ weights)
        scores[known.nonzero()] = -np.inf
        scores[:, ~usable] = -np.inf
        best = np.argpartition(-scores, min(n_candidates, scores.shape[1] - 1), axis=1)[:, :n_candidates]
        allowed = np.take_along_axis(scores, best, 1) > -np.inf
        near = np.einsum("ucf,uf->uc", unit[best], known @ (unit * usable[:, None]))
        liked = np.where(allowed, near, -np.inf).argmax(1)
        disliked = np.where(allowed, near, np.inf).argmin(1)
        rows = np.arange(len(users))
        edges = np.stack([users, best[rows, liked], best[rows, disliked]], 1)
        found.append(edges[(allowed.sum(1) > 1) & (near[rows, liked] > near[rows, disliked])])
    return torch.from_numpy(np.concatenate(found) if found else np.empty((0, 3))).long()
