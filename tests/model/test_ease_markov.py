"""EASE + Markov: the contract, and the weights against RecBole's EASE."""

import numpy as np
import torch
from contract import SequentialContract
from recbole.model.general_recommender import EASE

from recbole_llm.config import build_config
from recbole_llm.experiment.data import build_data
from recbole_llm.model.sequential.ease_markov import ease_weights


class TestEASEMarkov(SequentialContract):
    model = "EASEMarkov"
    config = {"markov_window": 5, "markov_decay": 0.5, "ease_weight": 0.3}
    trained = False

    def test_weight_mixes_standardised_scores(self, folder):
        def scores(weight: float) -> torch.Tensor:
            config, data, model = self.build(folder, ease_weight=weight)
            return model.full_sort_predict(self.inputs(config, data))

        markov, ease, mixed = scores(0.0), scores(1.0), scores(0.3)
        torch.testing.assert_close(mixed, 0.3 * ease + 0.7 * markov)
        for part in (markov, ease):
            torch.testing.assert_close(part[:, 1:].mean(1), torch.zeros(len(part)), rtol=0, atol=1e-5)
            torch.testing.assert_close(part[:, 1:].std(1), torch.ones(len(part)))


def test_weights_equal_those_of_recbole_s_ease(tiny_dataset, tmp_path):
    settings = {"data_path": str(tiny_dataset(tmp_path)), "reg_weight": 30.0, "use_gpu": False}
    data = build_data(build_config("EASE", "tiny", (), settings, ()))
    oracle = EASE(data.config, data.train)
    inter = data.train.inter_feat
    weights = ease_weights(inter["user_id"].numpy(), inter["item_id"].numpy(), data.n_items, 30.0)
    np.testing.assert_allclose(weights, oracle.item_similarity, rtol=1e-4, atol=1e-7)
    assert not weights.diagonal().any() and np.abs(weights).max() > 0.01


def test_a_repeated_interaction_counts_once():
    users, items = np.array([1, 1, 2, 2, 2]), np.array([1, 2, 2, 3, 2])
    np.testing.assert_allclose(
        ease_weights(users, items, 4, 1.0), ease_weights(users[:4], items[:4], 4, 1.0), rtol=1e-6
    )
