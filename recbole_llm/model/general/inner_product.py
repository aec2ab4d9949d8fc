"""What the trained general models share: user and item vectors whose inner product is the score."""

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from torch import Tensor


class InnerProduct(GeneralRecommender):
    r"""Score :math:`s(u, i) = e_u \cdot e_i`; a subclass makes all vectors in ``forward``.

    In eval mode they are made once and kept until a weight can have changed: until ``train()`` or ``eval()`` is called
    or a state loaded. RecBole's models keep theirs over loading, and in the checkpoint.
    """

    _kept: tuple[Tensor, Tensor] | None = None

    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of users [U, D] and items [N, D]."""
        raise NotImplementedError

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._kept = None
        return super().load_state_dict(*args, **kwargs)

    def scoring_vectors(self) -> tuple[Tensor, Tensor]:
        """:meth:`forward` without gradients."""
        kept = self._kept
        if kept is None:
            with torch.no_grad():
                kept = self()
            self._kept = None if self.training else kept
        return kept

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items. [B, N] float32."""
        users, items = self.scoring_vectors()
        return users[interaction[self.USER_ID]] @ items.T

    def predict(self, interaction) -> Tensor:
        """Scores of the given (user, item) pairs. [B] float32."""
        users, items = self.scoring_vectors()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(1)
