"""RP3beta: where a random walk of three steps ends, popular items held back."""

import numpy as np
import scipy.sparse as sp

from recbole_llm.model.general.item_similarity import ItemSimilarity, keep_largest


def walk_weights(x: sp.csr_matrix, alpha: float, beta: float, k: int) -> np.ndarray:
    r"""Two steps of the walk, item to user to item: :math:`W_{ij} = d_j^{-\beta} \sum_u p_{iu}^\alpha p_{uj}^\alpha`.

    Args:
        x: interactions as ones. [U, N].
        alpha: exponent of the transition probabilities p (1 / degree of the node left), >= 0.
        beta: exponent of the end item's degree d, >= 0.
        k: targets kept of each item, 0 = all; an item is none of its own.
    Returns:
        [N, N] float32.
    """
    x = x.astype(np.float64)
    of_user, of_item = (np.maximum(np.asarray(x.sum(axis)).ravel(), 1.0) for axis in (1, 0))
    from_user = sp.diags(of_user**-alpha) @ x  # [U, N]
    from_item = sp.diags(of_item**-alpha) @ x.T  # [N, U]
    weights = (from_item @ from_user).toarray() * of_item**-beta
    np.fill_diagonal(weights, 0.0)
    return keep_largest(weights.T, k).T.astype(np.float32, order="C")


class RP3beta(ItemSimilarity):
    r"""Score :math:`s(u, j) = \sum_i X_{ui} W_{ij}`, W of :func:`walk_weights`.

    Paudel et al. 2017, https://doi.org/10.1145/2955101, sect. 4: the probability that a walk user - item - user - item
    ends at j, divided by :math:`d_j^\beta`. The first step's probability is the same for all items of a user and left
    out, as it does not change his ranking. Differs: the walk does not end where it came from; ``k`` as in Ferrari
    Dacrema et al. 2019, https://arxiv.org/abs/1907.06902. Closed form.
    Config: ``alpha``, ``beta``, ``k``.
    Shapes: U n_users, N n_items (row 0 = [PAD]).
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.item_similarity = walk_weights(self.interaction_matrix, config["alpha"], config["beta"], config["k"])
