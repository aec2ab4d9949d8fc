"""RecBole's trainer with the hooks: our metrics, checkpoints, clipping and the guard against NaN."""

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole.trainer import RecVAETrainer, Trainer
from recbole.utils import init_seed
from synthetic import SMALL_SASREC, cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.errors import CheckpointError, TrainingError
from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.experiment.data import build_data, eval_data, train_loader
from recbole_llm.registry import resolve_model
from recbole_llm.trainer import checkpoint
from recbole_llm.trainer.hooks import TrainerHooks, hooked, parameter_count


@pytest.fixture
def parts(tmp_path, tiny_dataset):
    """Function from settings to (trainer, model, training loader, validation data) on the tiny dataset."""

    def make(model: str = "BPR", dataset: str = "tiny", **changes):
        root = tiny_dataset(tmp_path) if dataset == "tiny" else write_cycle(tmp_path)
        settings = {"data_path": str(root), "use_gpu": False, "embedding_size": 8, "epochs": 3}
        settings |= {"checkpoint_dir": str(tmp_path / "run"), "show_progress": False}
        if dataset == "cycle":
            settings |= cycle_settings(root) | SMALL_SASREC
        config = build_config(model, dataset, (), settings | changes, ())
        data = build_data(config)
        init_seed(1, True)
        module = resolve_model(model)(config, data.train)
        trainer = hooked(Trainer)(config, module)
        trainer.saved_model_file = str(tmp_path / "run" / "best.pt")
        trainer.stage = "warm-up"
        return trainer, module, train_loader(config, data), eval_data(config, data, "valid")

    return make


class TestWithRecBolesModel:
    def test_fit_keeps_the_best_and_reports_every_epoch(self, parts):
        trainer, model, loader, valid = parts(epochs=6, learning_rate=0.05)
        seen = []
        trainer.after_epoch = lambda epoch, score: seen.append((epoch, score))
        best, result = trainer.fit(loader, valid, verbose=False)
        assert [epoch for epoch, _ in seen] == list(range(6))
        assert best == max(score for _, score in seen) == result["ndcg@10"]
        again = trainer.evaluate(valid, load_best_model=True)
        assert again["ndcg@10"] == best
        assert len(trainer.epoch_seconds) == 6 and trainer.eval_seconds > 0

    def test_evaluate_gives_our_metrics_of_every_task(self, parts):
        tasks = {"few": {"n_candidates": 5, "mask_history": False}}
        trainer, model, _, valid = parts(secondary_tasks=tasks, metrics=["NDCG", "Hit"], topk=[5, 10])
        metrics = trainer.evaluate(valid, load_best_model=False)
        names = {f"{m}@{k}" for m in ("ndcg", "hit") for k in (5, 10)}
        assert set(metrics) == names | {f"few/{name}" for name in names}
        for task, prefix in zip(valid.tasks, ("", "few/"), strict=True):
            users = torch.from_numpy(task.user_ids)
            scores = model.user_embedding.weight[users] @ model.item_embedding.weight.T
            oracle = evaluate(task, lambda rows, scores=scores: scores[rows], metrics=["ndcg", "hit"], topk=[5, 10])
            for name, value in oracle.metrics.items():
                assert metrics[prefix + name] == pytest.approx(value, abs=1e-12)
            assert list(trainer.last_results[task.name].per_user) == list(oracle.per_user)

    def test_beyond_accuracy_metrics_run_for_a_chunk_loader_too(self, parts):
        trainer, _, loader, valid = parts(
            "SASRecAll", "cycle", epochs=1, metrics=["NDCG", "ItemCoverage", "GiniIndex", "AveragePopularity"]
        )
        trainer.fit(loader, valid, verbose=False)
        assert 0 < trainer.best_valid_result["itemcoverage@10"] <= 1

    def test_a_model_that_only_scores_pairs_is_scored_by_pairs(self, parts, monkeypatch):
        trainer, model, _, valid = parts()
        expected = trainer.evaluate(valid, load_best_model=False)

        def refuse(self, interaction):
            raise NotImplementedError

        monkeypatch.setattr(BPR, "full_sort_predict", refuse)
        valid.batch_size = 70  # pairs at a time: not a multiple of the items
        assert trainer.evaluate(valid, load_best_model=False) == pytest.approx(expected, abs=1e-12)


class TestGuard:
    def test_a_nan_loss_names_stage_batch_and_parameter(self, parts):
        trainer, model, loader, valid = parts(train_batch_size=64)
        batches = 0
        real = model.calculate_loss

        def poisoned(interaction):
            nonlocal batches
            batches += 1
            if batches == 3:
                with torch.no_grad():
                    model.item_embedding.weight.fill_(torch.nan)
            return real(interaction)

        model.calculate_loss = poisoned
        with pytest.raises(TrainingError) as error:
            trainer.fit(loader, valid, verbose=False)
        text = str(error.value)
        assert "loss is not finite in stage warm-up, epoch 1, batch 3" in text
        assert "first parameter that is not finite: item_embedding.weight" in text
        assert "lower the learning rate, set clip_grad_norm" in text

    def test_a_nan_gradient_under_a_finite_loss_is_seen_when_clipping(self, parts):
        trainer, model, loader, valid = parts(clip_grad_norm={"max_norm": 1.0})
        real = model.calculate_loss
        # sqrt at 0: value 0, gradient inf * 0
        model.calculate_loss = lambda batch: real(batch) + (model.user_embedding.weight[0] * 0).sum().sqrt()
        before = model.user_embedding.weight.clone()
        with pytest.raises(TrainingError, match="gradient is not finite .* epoch 1, batch 1 .*user_embedding.weight"):
            trainer.fit(loader, valid, verbose=False)
        assert torch.equal(model.user_embedding.weight, before)  # stopped before the step

    def test_each_part_of_the_loss_is_shown(self, parts):
        trainer, model, loader, valid = parts()
        model.calculate_loss = lambda batch: (torch.tensor(1.5), torch.tensor(torch.inf))
        with pytest.raises(TrainingError, match=r"\(loss parts: 1\.5, inf; first parameter that is not finite: none\)"):
            trainer.fit(loader, valid, verbose=False)

    def test_no_training_batch(self, parts):
        trainer, _, loader, valid = parts()

        class Empty(list):
            dataset = loader.dataset

        with pytest.raises(TrainingError, match="stage warm-up has no training batch"):
            trainer.fit(Empty(), valid, verbose=False)


class TestEpoch:
    def test_gradients_are_clipped_to_the_norm(self, parts):
        def moved(**changes) -> float:
            trainer, model, loader, _ = parts(learner="sgd", learning_rate=1.0, train_batch_size=100_000, **changes)
            before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
            trainer._train_epoch(loader, 0)
            return (torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm().item()

        assert moved() > 2e-3
        assert moved(clip_grad_norm={"max_norm": 1e-3}) == pytest.approx(1e-3, rel=1e-3)

    def test_equals_recboles_own_epoch(self, parts):
        def weights(own: bool) -> torch.Tensor:
            trainer, model, loader, _ = parts(train_batch_size=64)
            torch.manual_seed(0)
            np.random.seed(0)
            epoch = Trainer._train_epoch if own else type(trainer)._train_epoch
            loss = epoch(trainer, loader, 0)
            return torch.cat(
                [torch.tensor([loss / (len(loader) if own else 1)]), model.item_embedding.weight.flatten()]
            )

        torch.testing.assert_close(weights(True), weights(False))

    def test_the_loss_is_the_mean_of_each_part_over_batches(self, parts):
        trainer, model, loader, _ = parts(train_batch_size=64)
        values = iter(range(1000))
        model.calculate_loss = lambda batch: (torch.tensor(float(next(values))), torch.tensor(2.0))
        assert trainer._train_epoch(loader, 0) == (pytest.approx((len(loader) - 1) / 2), 2.0)

    def test_a_trainer_with_an_epoch_of_its_own_keeps_it(self):
        assert hooked(Trainer)._plain_epoch and not hooked(RecVAETrainer)._plain_epoch
        assert hooked(RecVAETrainer).__mro__[1:3] == (TrainerHooks, RecVAETrainer)
        assert hooked(Trainer) is hooked(Trainer)


class TestCheckpoints:
    def test_a_checkpoint_is_plain_and_exact(self, parts, tmp_path):
        trainer, model, loader, valid = parts(epochs=1)
        trainer.identity = {"model": "BPR", "split": "abc"}
        trainer.fit(loader, valid, verbose=False)
        state = checkpoint.load(tmp_path / "run" / "best.pt")
        assert (state["identity"], state["stage"], state["epoch"]) == (trainer.identity, "warm-up", 0)
        assert all(torch.equal(state["state_dict"][k], v) for k, v in model.state_dict().items())
        torch.load(tmp_path / "run" / "best.pt", weights_only=True)

    @pytest.mark.parametrize("name", ["model", "split", "feature table"])
    def test_another_identity_is_refused(self, parts, tmp_path, name):
        trainer, _, _, _ = parts()
        trainer.identity = {"model": "BPR", "split": "abc", "feature table": "f"}
        path = tmp_path / "run" / "best.pt"
        trainer._save_checkpoint(0)
        trainer.load_model(path)
        trainer.identity = trainer.identity | {name: "other"}
        with pytest.raises(CheckpointError, match=rf"best\.pt belongs to another {name} \(.* there, other here\)"):
            trainer.load_model(path)

    def test_training_goes_on_as_if_nothing_had_happened(self, parts, tmp_path):
        def losses(stop_after: int | None) -> tuple[dict, torch.Tensor]:
            trainer, model, loader, valid = parts(epochs=5, train_batch_size=64, learning_rate=0.02)

            def keep(epoch: int, score: float) -> None:
                if epoch == stop_after:
                    checkpoint.save(tmp_path / "last.pt", trainer.training_state(epoch, loader))
                    raise KeyboardInterrupt

            trainer.after_epoch = keep
            if stop_after is None:
                trainer.fit(loader, valid, verbose=False)
                return trainer.train_loss_dict, model.item_embedding.weight
            with pytest.raises(KeyboardInterrupt):
                trainer.fit(loader, valid, verbose=False)
            torch.manual_seed(77)  # another process
            np.random.seed(77)
            trainer, model, loader, valid = parts(epochs=5, train_batch_size=64, learning_rate=0.02)
            trainer.load_training_state(checkpoint.load(tmp_path / "last.pt"), loader)
            assert trainer.start_epoch == stop_after + 1
            trainer.fit(loader, valid, verbose=False)
            return trainer.train_loss_dict, model.item_embedding.weight

        whole, weight = losses(None)
        for stop_after in (0, 3):
            resumed, other = losses(stop_after)
            assert resumed == whole and torch.equal(other, weight)


def test_parameter_count_leaves_frozen_ones_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    model[1].weight.requires_grad_(False)
    assert parameter_count(model) == 3 * 4 + 4 + 2
