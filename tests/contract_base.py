"""What every model of the project must satisfy, whatever it reads; the contracts of the two kinds build on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_llm.config import build_config
from recbole_llm.experiment.data import build_data, build_model, eval_data, train_loader
from recbole_llm.registry import resolve_model


class ModelContract:
    """Inherit from one of its two children and set ``model`` (registry name) and ``config``.

    Closed-form models set ``trained = False``. A child says which data the contract is about: ``dataset``, the number
    of its items, ``write`` and ``base_settings``.
    """

    model: str
    config: dict = {}
    trained = True
    steps = 150
    learning_rate = 0.01
    loss_falls_to = 0.8  # of the first steps' loss

    dataset: str
    item_tokens: list[str]

    @classmethod
    def write(cls, folder: Path, file_order: np.ndarray | None = None) -> Path:
        """The dataset below ``folder``, its feature files in the given order of rows; returns ``folder``."""
        raise NotImplementedError

    @classmethod
    def base_settings(cls, folder: Path) -> dict:
        """Settings of a run on what ``write`` left below ``folder``."""
        raise NotImplementedError

    @classmethod
    def settings(cls, folder: Path, **changes) -> object:
        return build_config(cls.model, cls.dataset, (), cls.base_settings(folder) | cls.config | changes, ())

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
            for batch in (batch.to(config["device"]) for batch in loader):
                if len(losses) == steps:
                    return losses
                optimizer.zero_grad()
                loss = total(model.calculate_loss(batch))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())

    @classmethod
    def fit_if_trained(cls, config, data, model, steps: int) -> list[float]:
        return cls.fit(config, data, model, steps) if cls.trained else []

    @staticmethod
    def inputs(config, data) -> Interaction:
        return eval_data(config, data, "valid").inputs

    @classmethod
    def scores(cls, config, data, model) -> torch.Tensor:
        """Scores of the validation rows in eval mode. [rows, n_items]."""
        inputs = cls.inputs(config, data)
        with torch.no_grad():
            return model.eval().full_sort_predict(inputs).view(len(inputs), -1).clone()

    @classmethod
    def scores_by_token(cls, folder: Path, **changes) -> torch.Tensor:
        """Scores of the validation rows after three steps, a column an item of ``item_tokens``.

        After three steps, because at step 0 a zero-initialised branch would hide the features.
        """
        config, data, model = cls.build(folder, **changes)
        cls.fit_if_trained(config, data, model, 3)
        tokens = data.base.field2id_token["item_id"]
        columns = [int(np.flatnonzero(tokens == token)[0]) for token in cls.item_tokens]
        return cls.scores(config, data, model)[:, columns]

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory) -> Path:
        return cls.write(tmp_path_factory.mktemp(cls.dataset))

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, folder):
        config, data, model = cls.build(folder)
        losses = cls.fit_if_trained(config, data, model, cls.steps)
        return config, data, model.eval(), losses

    def test_loss_falls(self, fitted):
        if not self.trained:
            pytest.skip("closed form")
        losses = fitted[3]
        assert np.mean(losses[-10:]) < self.loss_falls_to * np.mean(losses[:5])

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

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_learns_on_a_gpu_and_scores_there_as_on_the_cpu(self, folder):
        config, data, _ = self.build(folder, use_gpu=True, gpu_id="0")
        gpu, on_gpu = config["device"], build_model(config, data)
        assert gpu.type == "cuda"
        losses = self.fit_if_trained(config, data, on_gpu, self.steps)
        if self.trained:
            assert np.mean(losses[-10:]) < self.loss_falls_to * np.mean(losses[:5])
        config, data, on_cpu = self.build(folder)
        on_cpu.load_state_dict({name: value.cpu() for name, value in on_gpu.state_dict().items()})
        inputs = self.inputs(config, data)
        with torch.no_grad():
            there = on_gpu.eval().full_sort_predict(inputs.to(gpu)).view(len(inputs), -1).cpu()
        torch.testing.assert_close(there, self.scores(config, data, on_cpu), rtol=1e-3, atol=1e-3)

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

    def test_state_holds_parameters_and_no_feature_table(self, fitted):
        model = fitted[2]
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}

    def test_state_round_trip_is_exact(self, fitted, folder, tmp_path):
        config, data, model, _ = fitted
        torch.save(model.state_dict(), tmp_path / "state.pt")
        _, _, other = self.build(folder, seed=99)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(self.scores(config, data, other), self.scores(config, data, model))

    def test_same_seed_same_scores_other_seed_others(self, folder):
        first, again, other = (self.scores_by_token(folder, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not self.trained or not torch.equal(first, other)

    def test_order_of_the_feature_file_does_not_matter(self, folder, tmp_path):
        order = np.random.default_rng(1).permutation(len(self.item_tokens))
        shuffled = self.write(tmp_path, file_order=order)
        assert torch.equal(self.scores_by_token(folder), self.scores_by_token(shuffled))

    def check_that_held_out_items_do_not_reach_the_model(self, folder: Path, other: Path) -> None:
        """The two folders differ in validation and test items alone: same training rows, same model, same scores."""
        datas = [self.build(where)[1] for where in (folder, other)]
        training, held_out = (
            [sorted(zip(*self._tokens(data, rows(data)), strict=True)) for data in datas]
            for rows in (lambda d: d.split.train, lambda d: np.concatenate([d.split.valid, d.split.open_test()]))
        )
        assert training[0] == training[1] and held_out[0] != held_out[1]
        torch.testing.assert_close(self.scores_by_token(folder), self.scores_by_token(other), rtol=1e-5, atol=1e-5)

    @staticmethod
    def _tokens(data, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return data.base.raw.users[rows], data.base.raw.items[rows]


def total(losses) -> torch.Tensor:
    """Sum of a loss or a tuple of loss parts."""
    return sum(losses) if isinstance(losses, tuple) else losses
