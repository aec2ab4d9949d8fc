"""RidgeText: item factors of the interactions, predicted from text, so that items without interactions have some."""

import numpy as np
import scipy.linalg

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features
from recbole_llm.model.general.item_similarity import ItemSimilarity


def ridge(text: np.ndarray, target: np.ndarray, rows: np.ndarray, reg_weight: float) -> np.ndarray:
    r"""Ridge regression with an intercept that is not penalised:
    :math:`\hat y_j = \bar y + (t_j - \bar t)(T^\top T + \lambda I)^{-1} T^\top Y`, T and Y centred.

    Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634, eq. 2.2.

    Args:
        text: [N, F]; target: [N, R]; rows: which of them are fitted [N] bool; reg_weight: lambda, > 0.
    Returns:
        Predictions for all rows. [N, R] float64.
    """
    mean_text, mean = text[rows].mean(0), target[rows].mean(0)
    x, y = text[rows] - mean_text, target[rows] - mean
    penalised = x.T @ x + reg_weight * np.eye(x.shape[1])
    return mean + (text - mean_text) @ scipy.linalg.solve(penalised, x.T @ y, assume_a="pos")


class RidgeText(ItemSimilarity):
    r"""Score :math:`s(u, j) = (x_u V) \cdot \hat v_j`, with :math:`\hat v_j` the :func:`ridge` prediction of item j's
    factors from its text.

    V [N, R] holds the leading right singular vectors of the training interactions X, so :math:`(x_u V) \cdot v_j` is
    PureSVD (Cremonesi et al. 2010, https://doi.org/10.1145/1864708.1864721); the map from content to factors is that of
    Gantner et al. 2010, https://doi.org/10.1109/ICDM.2010.129, in closed form. At full rank V drops out and an item's
    column of X is regressed on its text.

    Fitted are the items that have text and training interactions: a column of zeros of an item that nobody could have
    used says nothing about its text. An item without text is predicted by the mean of the fitted ones. Closed form.
    Config: ``rank`` R (0 = full), ``reg_weight`` lambda, ``warm_items`` (text: every item by its prediction; factors:
    items with training interactions by their own v_j), ``item_features``, ``whiten``, ``text_dim``.
    Shapes: N n_items (row 0 = [PAD]), F' text_dim, R rank.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        x, rank, warm_items = self.interaction_matrix, config["rank"], config["warm_items"]
        if warm_items not in ("text", "factors"):
            raise ConfigError(f"warm_items is '{warm_items}'; choose text or factors")
        if warm_items == "factors" and not 0 < rank < self.n_items:
            raise ConfigError(
                f"warm_items: factors with rank {rank} would score each item by itself alone; set rank to 1 to "
                f"{self.n_items - 1}, or warm_items to text"
            )
        text, present = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
        used = np.asarray(x.sum(0)).ravel() > 0  # [N]
        factors = np.eye(self.n_items)  # [N, R]
        if 0 < rank < self.n_items:
            gram = (x.T @ x).toarray().astype(np.float64)
            factors = scipy.linalg.eigh(gram, subset_by_index=(self.n_items - rank, self.n_items - 1))[1]
        fitted = used & present.numpy()
        predicted = ridge(text.numpy().astype(np.float64), factors, fitted, config["reg_weight"])
        predicted[~present.numpy()] = factors[fitted].mean(0)
        if warm_items == "factors":
            predicted[used] = factors[used]
        self.item_similarity = (factors @ predicted.T).astype(np.float32)  # [N, N]
