"""TextEASE: EASE whose Gram matrix also counts what two items have in common in their texts."""

from recbole_llm.model.content import joined_features
from recbole_llm.model.general.item_similarity import ItemSimilarity
from recbole_llm.model.sequential.ease_markov import weights_of_gram


class TextEASE(ItemSimilarity):
    r"""Score :math:`s(u, j) = \sum_i X_{ui} B_{ij}`, :math:`B_{ij} = -P_{ij} / P_{jj}`, diagonal 0, with
    :math:`P = (X^\top X + \beta^2 T T^\top + \lambda I)^{-1}`.

    Steck 2019, https://arxiv.org/abs/1905.03375, eq. 8, over X with the rows :math:`\beta T^\top` below it: each
    direction of the text is one more user, who used the items to the degree that they have it (collective EASE of
    Jeunen et al. 2020, https://doi.org/10.1145/3383313.3418480). T holds the features of the items, joined and
    whitened; an item without them has a zero row, which adds nothing: its weights come from X alone. beta = 0 is EASE.
    Closed form.
    Config: ``reg_weight`` lambda, ``beta``, ``item_features``, ``whiten``, ``text_dim``.
    Shapes: N n_items (row 0 = [PAD]), F' text_dim; X [U, N], T [N, F'].
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        gram = (self.interaction_matrix.T @ self.interaction_matrix).toarray().astype("float64")  # [N, N]
        if beta := config["beta"]:
            text, _ = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
            text = text.numpy().astype("float64")  # [N, F']
            gram += beta**2 * (text @ text.T)
        self.item_similarity = weights_of_gram(gram, config["reg_weight"])
