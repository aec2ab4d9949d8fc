"""What every sequential model of the project must satisfy: inherit :class:`SequentialContract`, name model and config.

The data is a fixed cycle of items: every user walks it from another start, so the next item is always known.
"""

from pathlib import Path

import numpy as np
import torch
from contract_base import ModelContract, total
from recbole.data.interaction import Interaction
from synthetic import N_ITEMS, N_STEPS, cycle_settings, write_cycle

from recbole_llm.experiment.data import eval_data

__all__ = ["SequentialContract", "total"]


class SequentialContract(ModelContract):
    """Inherit and set ``model`` (registry name) and ``config``; closed-form models set ``trained = False``."""

    dataset = "cycle"
    item_tokens = [f"i{k}" for k in range(N_ITEMS)]

    @classmethod
    def write(cls, folder: Path, file_order: np.ndarray | None = None) -> Path:
        return write_cycle(folder, file_order=file_order)

    @classmethod
    def base_settings(cls, folder: Path) -> dict:
        return cycle_settings(folder)

    def test_next_item_of_the_cycle_is_ranked_first(self, fitted):
        config, data, model, _ = fitted
        valid = eval_data(config, data, "valid")
        with torch.no_grad():
            scores = model.full_sort_predict(valid.inputs).view(len(valid.tasks[0]), -1)
        scores[:, 0] = -torch.inf
        best = scores.argmax(1).numpy()
        assert (best == valid.tasks[0].pos_items).mean() > 0.9

    def test_what_stands_in_padding_changes_nothing(self, fitted):
        config, data, model, _ = fitted
        inputs = self.inputs(config, data)
        short = {name: inputs[name].clone() for name in ("user_id", "item_id_list", "item_length")}
        short["item_length"] = torch.full_like(short["item_length"], 3)
        short["item_id_list"][:, 3:] = 0
        dirty = short | {"item_id_list": short["item_id_list"].clone()}
        dirty["item_id_list"][:, 3:] = torch.randint(1, data.n_items, dirty["item_id_list"][:, 3:].shape)
        with torch.no_grad():
            clean, changed = (model.full_sort_predict(Interaction(x)) for x in (short, dirty))
        torch.testing.assert_close(clean, changed, rtol=1e-5, atol=1e-5)

    def test_longer_padding_changes_nothing(self, fitted):
        config, data, model, _ = fitted
        inputs = self.inputs(config, data)
        lengths = torch.full_like(inputs["item_length"], 3)
        wide = Interaction({"item_id_list": inputs["item_id_list"] * (torch.arange(8) < 3), "item_length": lengths})
        narrow = Interaction({"item_id_list": inputs["item_id_list"][:, :3], "item_length": lengths})
        with torch.no_grad():
            a, b = model.full_sort_predict(wide), model.full_sort_predict(narrow)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)

    def test_a_user_without_history_gets_finite_scores(self, fitted):
        config, data, model, _ = fitted
        nobody = {
            "user_id": torch.tensor([1]),
            "item_id_list": torch.zeros(1, 8, dtype=torch.int64),
            "item_length": torch.tensor([1]),
        }
        with torch.no_grad():
            assert torch.isfinite(model.full_sort_predict(Interaction(nobody))).all()

    def test_held_out_items_do_not_reach_the_model(self, folder, tmp_path):
        other = self.write(tmp_path)
        file = other / "cycle" / "cycle.inter"
        header, *rows = file.read_text(encoding="utf-8").splitlines()
        changed = []
        for row in rows:
            user, item, rating, stamp = row.split("\t")
            if int(stamp) // 1000 >= N_STEPS - 2:  # the last two of a user
                item = f"i{(int(item[1:]) + 11) % N_ITEMS}"
            changed.append("\t".join((user, item, rating, stamp)))
        file.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
        self.check_that_held_out_items_do_not_reach_the_model(folder, other)
