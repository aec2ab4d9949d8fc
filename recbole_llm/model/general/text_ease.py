"""TextEASE: EASE whose weights are drawn to the likeness of two items' texts, or whose Gram matrix also counts it."""

import numpy as np
import scipy.linalg

from recbole_llm.model.content import joined_features
from recbole_llm.model.general.item_similarity import ItemSimilarity
from recbole_llm.model.sequential.ease_markov import weights_of_gram


def weights_towards(gram: np.ndarray, reg_weight: float, text: np.ndarray, gamma: float) -> np.ndarray:
    r"""Item-item weights that minimise
    :math:`\operatorname{tr}((I - B)^\top G (I - B)) + \lambda \lVert B - \gamma T T^\top \rVert_F^2`, diagonal 0.

    The multipliers of the diagonal are solved for as in Steck 2019, https://arxiv.org/abs/1905.03375, section 3.1. That
    of the likeness, :math:`T T^\top`, makes no difference: there B is 0 whatever it is drawn to.

    Args:
        gram: G, for EASE :math:`X^\top X`; it is overwritten. [N, N] float64.
        reg_weight: lambda, > 0. text: T [N, F] float64. gamma: 0 gives EASE.
    Returns:
        [N, N] float32.
    """
    gram[np.diag_indices(len(gram))] += reg_weight
    precision = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = np.linalg.multi_dot([precision, text, text.T])  # in the cheaper order
    weights *= reg_weight * gamma
    weights -= precision * ((1 + np.diag(weights)) / np.diag(precision))
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


class TextEASE(ItemSimilarity):
    r"""Score :math:`s(u, j) = \sum_i X_{ui} B_{ij}`, B the minimum, with diagonal 0, of

    .. math:: \lVert X - X B \rVert_F^2 + \beta^2 \lVert T^\top - T^\top B \rVert_F^2
        + \lambda \lVert B - \gamma T T^\top \rVert_F^2.

    EASE (Steck 2019, https://arxiv.org/abs/1905.03375) is beta = gamma = 0: there every weight is shrunk to 0, however
    alike two items are. T holds the features of the items, joined and whitened, in rows of length 1, so that
    :math:`T T^\top` are cosines. They enter in two ways:

    - ``gamma``: weights are shrunk to the cosine of the two texts instead, which interactions correct where there are
      enough of them: a ridge estimator with a prior mean (Swindel 1976,
      https://doi.org/10.1080/03610927608827423), see :func:`weights_towards`.
    - ``beta``: each direction of the text is one more user, who used the items to the degree that they have it
      (collective EASE of Jeunen et al. 2020, https://doi.org/10.1145/3383313.3418480).

    An item without features has a zero row, which adds nothing: its weights come from X alone. Closed form.
    Config: ``reg_weight`` lambda, ``gamma``, ``beta``, ``item_features``, ``whiten``, ``text_dim``.
    Shapes: N n_items (row 0 = [PAD]), F' text_dim; X [U, N], T [N, F'].
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        gram = (self.interaction_matrix.T @ self.interaction_matrix).toarray().astype("float64")  # [N, N]
        beta, gamma = config["beta"], config["gamma"]
        if beta or gamma:
            text, _ = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
            text = text.numpy().astype("float64")  # [N, F']
        if beta:
            gram += beta**2 * (text @ text.T)
        if gamma:
            self.item_similarity = weights_towards(gram, config["reg_weight"], text, gamma)
        else:
            self.item_similarity = weights_of_gram(gram, config["reg_weight"])
