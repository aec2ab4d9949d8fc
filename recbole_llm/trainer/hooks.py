"""RecBole's trainers with our evaluation, checkpoints, progress and guards, by overriding single steps.

:func:`hooked` puts :class:`TrainerHooks` in front of any RecBole trainer class; RecBole's ``fit()`` stays in charge.
"""

import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from recbole.trainer import Trainer
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_llm.errors import CheckpointError, DataError, TrainingError
from recbole_llm.evaluation.kernel import EvalResult, evaluate
from recbole_llm.trainer import checkpoint
from recbole_llm.trainer.eval_data import EvalData
from recbole_llm.trainer.labelled_rows import LabelledRows

_PLATEAU = 3  # validations in a row without a new best, after which "plateau" halves the learning rates


class TrainerHooks:
    """Overrides of RecBole's Trainer; see the module.

    Attributes:
        stage: name shown in the progress bar. lr_schedule: constant, cosine or plateau.
        best_file: where the best state goes (RecBole's ``saved_model_file``).
        identity: what a checkpoint must agree with: model, split fingerprint, feature hashes.
        after_epoch: called with (epoch, valid_score) once an epoch's best has been decided.
        last_results: the EvalResult of every task of the last evaluation, by task name.
        valid_curve: [epoch, counted from 1, and validation score] of every validation of the stage so far.
    """

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.stage, self.lr_schedule = "train", config["lr_schedule"]
        self.identity: dict[str, object] = {}
        self.after_epoch: Callable[[int, float], None] | None = None
        self.last_results: dict[str, EvalResult] = {}
        self.valid_curve: list[list[float]] = []
        self.epoch_seconds: list[float] = []
        self.eval_seconds = 0.0

    # ------------------------------------------------------------------ training

    def _build_optimizer(self, **kwargs):
        """RecBole's optimiser; None for a closed-form model without parameters."""
        return super()._build_optimizer(**kwargs) if any(True for _ in self.model.parameters()) else None

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's fit; ``after_epoch`` and ``callback_fn`` are called after every validated epoch."""

        def after(epoch_idx: int, valid_score: float) -> None:
            if self.lr_schedule == "plateau" and self.cur_step and self.cur_step % _PLATEAU == 0:
                for group in self.optimizer.param_groups:
                    group["lr"] /= 2  # kept by the optimiser's state
            self.valid_curve.append([epoch_idx + 1, float(valid_score)])
            if self.after_epoch:
                self.after_epoch(epoch_idx, valid_score)
            if callback_fn:
                callback_fn(epoch_idx, valid_score)

        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn=after)

    def _set_learning_rates(self, epoch_idx: int) -> None:
        """Learning rates of the epoch: constant, or under "cosine" down to 2 % in the last epoch of the stage.

        Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5, one cycle over the stage's epochs.
        """
        if self.lr_schedule != "cosine" or self.optimizer is None:
            return
        done = epoch_idx / max(self.epochs - 1, 1)
        factor = 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor  # kept by the optimiser's state

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        self._set_learning_rates(epoch_idx)
        if type(self)._plain_epoch:
            return self._guarded_epoch(train_data, epoch_idx, loss_func, show_progress)
        start = time.perf_counter()
        total = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self.epoch_seconds.append(time.perf_counter() - start)
        return total

    def _guarded_epoch(self, train_data, epoch_idx, loss_func, show_progress):
        """RecBole's epoch with a progress bar, clipping and a guard that names what is not finite."""
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        bar = tqdm(
            train_data,
            total=len(train_data),
            desc=f"{self.stage} {epoch_idx + 1}/{self.epochs}",
            disable=None if show_progress else True,  # None: off when stderr is not a terminal
            leave=False,
            dynamic_ncols=True,
        )
        start, total, n_batches = time.perf_counter(), None, 0
        for batch_idx, interaction in enumerate(bar):
            interaction = interaction.to(self.device)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                losses = loss_func(interaction)
            losses = losses if isinstance(losses, tuple) else (losses,)
            loss = sum(losses)
            values = [part.detach().sum().item() for part in losses]  # a fake loss of RecBole has shape [1]
            if not math.isfinite(sum(values)):
                self._stop_not_finite("loss", epoch_idx, batch_idx, values)
            if loss.requires_grad:
                scaler.scale(loss).backward()
                if self.clip_grad_norm:
                    scaler.unscale_(self.optimizer)
                    norm = clip_grad_norm_(parameters, **self.clip_grad_norm)
                    if not self.enable_scaler and not torch.isfinite(norm):
                        self._stop_not_finite("gradient", epoch_idx, batch_idx, values)
                scaler.step(self.optimizer)
                scaler.update()
            total = values if total is None else [a + b for a, b in zip(total, values, strict=True)]
            n_batches += 1
            if not bar.disable:
                bar.set_postfix_str(f"loss {sum(total) / n_batches:.4f}, {self._seconds_left(epoch_idx):.0f} s left")
        self.epoch_seconds.append(time.perf_counter() - start)
        if total is None:
            raise TrainingError(
                f"stage {self.stage} has no training batch: the training split holds no user with two interactions"
            )
        means = tuple(value / n_batches for value in total)
        return means if len(means) > 1 else means[0]

    def _seconds_left(self, epoch_idx: int) -> float:
        """Seconds to the end of the stage if it runs all its epochs, by the mean of those done."""
        done = [*self.epoch_seconds] or [math.nan]
        per_epoch = sum(done) / len(done) + self.eval_seconds / max(len(self.epoch_seconds), 1)
        return per_epoch * (self.epochs - epoch_idx) if math.isfinite(per_epoch) else 0.0

    def _stop_not_finite(self, what: str, epoch_idx: int, batch_idx: int, values: list[float]) -> None:
        broken = [
            name
            for name, p in self.model.named_parameters()
            if not torch.isfinite(p).all() or (p.grad is not None and not torch.isfinite(p.grad).all())
        ]
        parts = ", ".join(f"{v:.4g}" for v in values)
        raise TrainingError(
            f"{what} is not finite in stage {self.stage}, epoch {epoch_idx + 1}, batch {batch_idx + 1} "
            f"(loss parts: {parts}; first parameter that is not finite: {broken[0] if broken else 'none'}); "
            "lower the learning rate, set clip_grad_norm: {max_norm: 1.0}, or check the features with doctor"
        )

    # ------------------------------------------------------------------ evaluation

    def _valid_epoch(self, valid_data, show_progress=False):
        start = time.perf_counter()
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        self.eval_seconds += time.perf_counter() - start
        if self.valid_metric not in result:
            raise DataError(
                f"validation gives no {self.valid_metric}: too few of its rows belong together; choose another "
                f"valid_metric, of {', '.join(result)}"
            )
        return result[self.valid_metric], result

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Metrics of an :class:`EvalData`, keyed ``ndcg@10``, those of secondary tasks ``<task>/ndcg@10``.

        Those of :class:`LabelledRows` are what it says.
        """
        if isinstance(eval_data, LabelledRows):
            return eval_data.evaluate(self.model, self.device)
        if not isinstance(eval_data, EvalData):
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)
        if load_best_model:
            self.load_model(Path(model_file or self.saved_model_file))
        self.model.eval()
        score_rows = eval_data.scorer(self.model, self.device)
        metrics: dict[str, float] = {}
        self.last_results = {}
        for k, task in enumerate(eval_data.tasks):
            result = evaluate(
                task,
                score_rows,
                metrics=eval_data.metrics,
                topk=eval_data.topk,
                item_counts=eval_data.item_counts,
            )
            prefix = "" if k == 0 else f"{task.name}/"
            metrics |= {prefix + name: value for name, value in result.metrics.items()}
            self.last_results[task.name] = result
        return metrics

    # ------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, epoch, verbose=True, **kwargs) -> None:
        checkpoint.save(Path(kwargs.get("saved_model_file", self.saved_model_file)), self.model_state(epoch))

    def model_state(self, epoch: int) -> dict[str, object]:
        """The model and what it belongs to, as tensors and plain data."""
        # RecBole's DIN and others name layers there, whose weights the state_dict holds already
        other = (self.model.other_parameter() or {}).items()
        return {
            "identity": self.identity,
            "stage": self.stage,
            "epoch": epoch,
            "state_dict": self.model.state_dict(),
            "other_parameter": {name: value for name, value in other if not isinstance(value, torch.nn.Module)},
        }

    def training_state(self, epoch: int, loader) -> dict[str, object]:
        """Everything that the next epoch depends on."""
        generator = getattr(loader, "generator", None)
        return self.model_state(epoch) | {
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": self.best_valid_result,
            "train_loss": self.train_loss_dict,
            "valid_curve": self.valid_curve,
            "epoch_seconds": self.epoch_seconds,
            "eval_seconds": self.eval_seconds,
            "optimizer": self.optimizer.state_dict(),
            "rng": checkpoint.rng_state(),
            "loader": None if generator is None else generator.get_state(),
        }

    def load_training_state(self, state: dict[str, object], loader) -> None:
        """Continue after the epoch in which :meth:`training_state` was taken."""
        self.check_identity(state, "the checkpoint to resume from")
        self.load_weights(state)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self.train_loss_dict, self.valid_curve = state["train_loss"], state["valid_curve"]
        self.epoch_seconds, self.eval_seconds = state["epoch_seconds"], state["eval_seconds"]
        self.optimizer.load_state_dict(state["optimizer"])
        checkpoint.set_rng_state(state["rng"])
        if state["loader"] is not None:
            loader.generator.set_state(state["loader"].cpu())

    def load_model(self, path: Path) -> None:
        """Load the weights of a checkpoint of this model, split and feature table."""
        state = checkpoint.load(path, self.device)
        self.check_identity(state, str(path))
        self.load_weights(state)

    def load_weights(self, state: dict[str, object]) -> None:
        self.model.load_state_dict(state["state_dict"])
        self.model.load_other_parameter(state["other_parameter"])

    def check_identity(self, state: dict[str, object], where: str) -> None:
        for name, ours in self.identity.items():
            theirs = state["identity"].get(name)
            if theirs != ours:
                raise CheckpointError(
                    f"{where} belongs to another {name} ({theirs} there, {ours} here); "
                    "use the configuration it was trained with, or train again"
                )


@cache
def hooked(base: type[Trainer]) -> type:
    """``base`` with :class:`TrainerHooks` in front; a trainer with an epoch of its own keeps it."""
    plain = base._train_epoch is Trainer._train_epoch
    return type(f"Hooked{base.__name__}", (TrainerHooks, base), {"_plain_epoch": plain})


def parameter_count(model) -> int:
    """Trainable parameters of a model."""
    return int(sum(np.prod(p.shape) for p in model.parameters() if p.requires_grad))
