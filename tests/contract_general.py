"""What every general model of the project must satisfy: inherit :class:`GeneralContract`, name model and config.

The data is a checkerboard: users of even number like even items, odd ones odd items, and an item's features tell which
it is. See ``write_checkerboard`` for who is held out.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from contract_base import ModelContract
from recbole.data.interaction import Interaction
from synthetic import BOARD_TOKENS, COLD_ITEMS, checkerboard_settings, write_checkerboard

from recbole_llm.config import build_config
from recbole_llm.experiment.data import build_data, build_model, eval_data


class GeneralContract(ModelContract):
    """Inherit and set ``model`` (registry name) and ``config``.

    Closed-form models set ``trained = False``; models that score items without interactions by their features set
    ``scores_cold_items = True``.
    """

    dataset = "checkerboard"
    item_tokens = BOARD_TOKENS
    scores_cold_items = False
    loss_falls_to = (
        0.9  # a user likes eight items alike, so a softmax over all 26 can fall from log 26 to log 8 at most
    )

    @classmethod
    def write(cls, folder: Path, file_order: np.ndarray | None = None) -> Path:
        return write_checkerboard(folder, file_order=file_order)

    @classmethod
    def base_settings(cls, folder: Path) -> dict:
        return checkerboard_settings(folder)

    @staticmethod
    def colours(data, field: str) -> np.ndarray:
        """0 for ids of even tokens, 1 for odd ones, -1 for [PAD]. [n] int64."""
        return np.array([-1, *(int(token[1:]) % 2 for token in data.base.field2id_token[field][1:])])

    def test_held_out_items_of_the_own_colour_rank_above_the_others(self, fitted):
        config, data, model, _ = fitted
        task = eval_data(config, data, "valid").tasks[0]
        scores = self.scores(config, data, model)
        users, items = self.colours(data, "user_id")[task.user_ids], self.colours(data, "item_id")
        assert (items[task.pos_items] == users).all()
        above = [
            (row[wanted] > row[torch.from_numpy(items == 1 - user)]).float().mean().item()
            for row, wanted, user in zip(scores, task.pos_items, users, strict=True)
        ]
        assert np.mean(above) > 0.95

    def test_an_item_that_nobody_used_is_scored_by_its_features(self, fitted):
        if not self.scores_cold_items:
            pytest.skip("does not score cold items")
        config, data, model, _ = fitted
        columns = [data.base.field2token_id["item_id"][token] for token in COLD_ITEMS]
        assert not data.item_counts[columns].any()
        scores = self.scores(config, data, model)[:, columns]  # [users, even and odd item]
        users = self.colours(data, "user_id")[eval_data(config, data, "valid").tasks[0].user_ids]
        assert (scores.argmax(1).numpy() == users).mean() > 0.95

    def test_unknown_users_and_items_get_finite_scores(self, fitted):
        _, data, model, _ = fitted
        assert (data.item_counts == 0).sum() == 1 + len(COLD_ITEMS)
        everybody = Interaction({"user_id": torch.arange(data.base.user_num)})  # id 0 has no history
        with torch.no_grad():
            assert torch.isfinite(model.full_sort_predict(everybody)).all()

    def test_held_out_items_do_not_reach_the_model(self, folder, tmp_path):
        self.check_that_held_out_items_do_not_reach_the_model(folder, write_checkerboard(tmp_path, other_held_out=True))

    def test_scores_in_between_change_nothing(self, folder):
        """Vectors kept from an earlier scoring must go when the weights change, by training or by loading."""
        if not self.trained:
            pytest.skip("closed form")
        config, data, model = self.build(folder)
        self.fit(config, data, model, 2)
        before, state = self.scores(config, data, model), {k: v.clone() for k, v in model.state_dict().items()}
        self.fit(config, data, model, 2)
        after = self.scores(config, data, model)
        assert not torch.allclose(before, after)
        _, _, twin = self.build(folder)  # scored only at the end
        self.fit(config, data, twin, 2)
        self.fit(config, data, twin, 2)
        assert torch.equal(self.scores(config, data, twin), after)
        model.load_state_dict(state)
        assert torch.equal(self.scores(config, data, model), before)

    def test_state_holds_no_kept_vectors(self, fitted):
        assert not fitted[2].other_parameter()  # RecBole puts it into every checkpoint


def build_on_checkerboard(model: str, folder: Path, settings: dict):
    """Config, data and model of some settings, on what ``write_checkerboard`` left below ``folder``."""
    config = build_config(model, "checkerboard", (), checkerboard_settings(folder) | settings, ())
    data = build_data(config)
    torch.manual_seed(4)
    return config, data, build_model(config, data)


def dense_graph(data) -> torch.Tensor:
    """The normalised adjacency by a loop over the training rows. [U + N, U + N]."""
    pairs = {(int(data.user_ids[r]), int(data.item_ids[r])) for r in data.split.train}
    n_users, n_items = data.base.user_num, data.n_items
    adjacency = torch.zeros(n_users + n_items, n_users + n_items)
    for u, i in pairs:
        norm = (sum(a == u for a, _ in pairs) * sum(b == i for _, b in pairs)) ** -0.5
        adjacency[u, n_users + i] = adjacency[n_users + i, u] = norm
    return adjacency
