"""What every sequential model of the project must satisfy: inherit :class:`SequentialContract`, name model and config.

The data is a fixed cycle of items: every user walks it from another start, so the next item is always known.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed
from synthetic import N_ITEMS, N_STEPS, cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.experiment.data import build_data, eval_data, train_loader
from recbole_llm.registry import resolve_model


class SequentialContract:
    """Inherit and set ``model`` (registry name) and ``config``; closed-form models set ``trained = False``."""

    model: str
    config: dict = {}
    trained = True
    steps = 150
    learning_rate = 0.01

    @classmethod
    def settings(cls, folder: Path, **changes) -> object:
        return build_config(cls.model, "cycle", (), cycle_settings(folder) | cls.config | changes, ())

    @classmethod
    def build(cls, folder: Path, **changes):
        config = cls.settings(folder, **changes)
        data = build_data(config)
        init_seed(config["seed"], True)
        model = resolve_model(cls.model)(config, data.train)
        return config, data, model

    @staticmethod
    def trainable(model) -> list[torch.nn.Parameter]:
        return [p for p in model.parameters() if p.requires_grad]

    @classmethod
    def fit(cls, config, data, model, steps: int) -> list[float]:
        optimizer = torch.optim.Adam(cls.trainable(model), lr=cls.learning_rate)
        loader, losses = train_loader(config, data), []
        model.train()
        while True:
            for batch in loader:
                if len(losses) == steps:
                    return losses
                optimizer.zero_grad()
                loss = total(model.calculate_loss(batch))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory) -> Path:
        return write_cycle(tmp_path_factory.mktemp("cycle"))

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, folder):
        config, data, model = cls.build(folder)
        losses = cls.fit(config, data, model, cls.steps) if cls.trained else []
        return config, data, model.eval(), losses

    @staticmethod
    def inputs(config, data) -> Interaction:
        return eval_data(config, data, "valid").inputs

    def test_next_item_of_the_cycle_is_ranked_first(self, fitted):
        config, data, model, _ = fitted
        valid = eval_data(config, data, "valid")
        with torch.no_grad():
            scores = model.full_sort_predict(valid.inputs).view(len(valid.tasks[0]), -1)
        scores[:, 0] = -torch.inf
        best = scores.argmax(1).numpy()
        assert (best == valid.tasks[0].pos_items).mean() > 0.9

    def test_loss_falls(self, fitted):
        if not self.trained:
            pytest.skip("closed form")
        losses = fitted[3]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])

    def test_predict_is_that_column_of_full_sort_predict(self, fitted):
        config, data, model, _ = fitted
        inputs = self.inputs(config, data)
        with torch.no_grad():
            full = model.full_sort_predict(inputs).view(len(inputs), -1)
            for item in (1, 7, data.n_items - 1):
                inputs.update(Interaction({"item_id": torch.full((len(inputs),), item)}))
                torch.testing.assert_close(model.predict(inputs), full[:, item], rtol=1e-4, atol=1e-4)

    def test_batch_equals_singles(self, fitted):
        config, data, model, _ = fitted
        inputs = self.inputs(config, data)
        with torch.no_grad():
            full = model.full_sort_predict(inputs).view(len(inputs), -1)
            singles = torch.stack([model.full_sort_predict(inputs[i : i + 1]).view(-1) for i in range(len(inputs))])
        torch.testing.assert_close(full, singles, rtol=1e-4, atol=1e-4)

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

    def test_every_parameter_gets_gradient_within_three_steps(self, folder):
        if not self.trained:
            pytest.skip("closed form")
        config, data, model = self.build(folder)
        optimizer = torch.optim.SGD(self.trainable(model), lr=0.1)
        reached: set[str] = set()
        model.train()
        batches = iter(train_loader(config, data))
        for _ in range(3):
            optimizer.zero_grad()
            total(model.calculate_loss(next(batches))).backward()
            reached |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
            optimizer.step()
        assert {n for n, p in model.named_parameters() if p.requires_grad} - reached == set()

    def test_two_optimizer_steps_equal_hand_applied_ones(self, folder):
        if not self.trained:
            pytest.skip("closed form")
        rate, results = 0.05, []
        for by_hand in (False, True):
            config, data, model = self.build(folder)
            model.train()
            optimizer = torch.optim.SGD(self.trainable(model), lr=rate)
            batches = iter(train_loader(config, data))
            torch.manual_seed(11)
            for _ in range(2):
                loss = total(model.calculate_loss(next(batches)))
                if by_hand:
                    parameters = self.trainable(model)
                    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
                    with torch.no_grad():
                        for p, g in zip(parameters, grads, strict=True):
                            if g is not None:
                                p -= rate * g
                else:
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            results.append(model.state_dict())
        for name, value in results[0].items():
            torch.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-6, msg=name)

    def test_a_user_without_history_gets_finite_scores(self, fitted):
        config, data, model, _ = fitted
        nobody = {
            "user_id": torch.tensor([1]),
            "item_id_list": torch.zeros(1, 8, dtype=torch.int64),
            "item_length": torch.tensor([1]),
        }
        with torch.no_grad():
            assert torch.isfinite(model.full_sort_predict(Interaction(nobody))).all()

    def test_state_holds_parameters_and_no_feature_table(self, fitted):
        model = fitted[2]
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}

    def test_state_round_trip_is_exact(self, fitted, folder, tmp_path):
        config, data, model, _ = fitted
        torch.save(model.state_dict(), tmp_path / "state.pt")
        _, _, other = self.build(folder, seed=99)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        inputs = self.inputs(config, data)
        with torch.no_grad():
            assert torch.equal(other.eval().full_sort_predict(inputs), model.full_sort_predict(inputs))

    def test_same_seed_same_scores_other_seed_others(self, folder):
        def scores(seed: int) -> torch.Tensor:
            config, data, model = self.build(folder, seed=seed)
            if self.trained:
                self.fit(config, data, model, 3)
            with torch.no_grad():
                return model.eval().full_sort_predict(self.inputs(config, data))

        assert torch.equal(scores(3), scores(3))
        assert not self.trained or not torch.equal(scores(3), scores(4))

    def test_order_of_the_feature_file_does_not_matter(self, folder, tmp_path):
        shuffled = write_cycle(tmp_path, file_order=np.random.default_rng(1).permutation(N_ITEMS))

        def scores(where: Path) -> torch.Tensor:
            config, data, model = self.build(where)
            if self.trained:  # at step 0 a zero-initialised branch would hide the features
                self.fit(config, data, model, 3)
            with torch.no_grad():
                return model.eval().full_sort_predict(self.inputs(config, data))

        assert torch.equal(scores(folder), scores(shuffled))

    def test_held_out_items_do_not_reach_the_model(self, folder, tmp_path):
        """Other validation and test items, same training rows: same model, same scores."""
        other = write_cycle(tmp_path)
        file = other / "cycle" / "cycle.inter"
        header, *rows = file.read_text(encoding="utf-8").splitlines()
        changed = []
        for row in rows:
            user, item, rating, stamp = row.split("\t")
            if int(stamp) // 1000 >= N_STEPS - 2:  # the last two of a user
                item = f"i{(int(item[1:]) + 11) % N_ITEMS}"
            changed.append("\t".join((user, item, rating, stamp)))
        file.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")

        def scores(where: Path) -> dict[str, torch.Tensor]:
            config, data, model = self.build(where)
            if self.trained:
                self.fit(config, data, model, 3)
            inputs = self.inputs(config, data)
            with torch.no_grad():
                full = model.eval().full_sort_predict(inputs).view(len(inputs), -1)
            tokens = data.base.field2id_token["item_id"]
            columns = [int(np.flatnonzero(tokens == f"i{k}")[0]) for k in range(N_ITEMS)]
            return full[:, columns]

        torch.testing.assert_close(scores(folder), scores(other), rtol=1e-5, atol=1e-5)


def total(losses) -> torch.Tensor:
    """Sum of a loss or a tuple of loss parts."""
    return sum(losses) if isinstance(losses, tuple) else losses
