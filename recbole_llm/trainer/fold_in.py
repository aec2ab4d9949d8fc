"""Fold known interactions into models that score a user by the items he has used.

At test time a history includes the validation item, for every model: sequence models read it as input, models of this
kind read it as the user's row. What was learned (similarities, weights) stays as trained.
"""

import numpy as np
import scipy.sparse as sp
from recbole.model.abstract_recommender import AutoEncoderMixin
from recbole.utils import ModelType


def fold_in(model, known_dataset) -> bool:
    """Replace the user rows of a RecBole model by the known interactions.

    Args:
        model: any model; autoencoders and item-similarity models are changed, others left alone, sequential ones, which
            read the history itself, among them.
        known_dataset: RecBole dataset of the known interactions.
    Returns:
        Whether the model reads user rows and was changed.
    """
    if model.type not in (ModelType.GENERAL, ModelType.TRADITIONAL):
        return False
    if isinstance(model, AutoEncoderMixin):
        model.build_histroy_items(known_dataset)
        return True
    rows = getattr(model, "interaction_matrix", None)
    if getattr(model, "item_similarity", None) is not None and rows is not None:  # EASE, SLIMElastic, ADMMSLIM, ...
        known = known_dataset.inter_matrix(form="csr").astype(np.float32)
        model.interaction_matrix = known.asformat(rows.format) if sp.issparse(rows) else known
        return True
    if hasattr(model, "pred_mat") and getattr(model, "method", None) == "item":  # ItemKNN
        known = known_dataset.inter_matrix(form="csr").astype(np.float32)
        model.interaction_matrix, model.pred_mat = known, known.dot(model.w).tolil()
        return True
    return False
