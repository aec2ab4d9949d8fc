"""Patches of RecBole's own bugs that change what a run computes, costs or leaves behind."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recbole_llm import compat

PATCHES = {patch.name: patch for patch in compat.patches()}


@pytest.mark.slow
@pytest.mark.parametrize(("patched", "anomaly_detection"), [(False, "True"), (True, "False")])
@pytest.mark.slow
def test_sequential_models_do_not_leave_anomaly_detection_on(patched, anomaly_detection):
    """In a process of its own: the mode is global, and importing happens once."""
    script = f"""
import warnings; warnings.simplefilter("ignore")
import torch
from recbole_llm import compat
if {patched}:
    compat.apply()
import recbole.model.sequential_recommender
print(torch.is_anomaly_enabled())
"""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split()[-1] == anomaly_detection


def pop():
    from recbole.model.general_recommender import Pop

    config = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "NEG_PREFIX": "neg_", "device": "cpu"}
    return Pop(config, SimpleNamespace(num=lambda field: 5))


def test_pop_counts_every_interaction_of_a_batch():
    batch = {"item_id": torch.tensor([1, 1, 1, 2, 3, 3])}
    patch = PATCHES["pop-counts"]
    patch.revert()
    try:
        broken = pop()
        broken.calculate_loss(batch)
    finally:
        patch.apply()
    assert broken.item_cnt[:, 0].tolist() == [0, 1, 1, 1, 0]  # once a batch, as released
    mended = pop()
    mended.calculate_loss(batch)
    mended.calculate_loss(batch)
    assert mended.item_cnt[:, 0].tolist() == [0, 6, 2, 4, 0] and mended.max_cnt.item() == 6


def test_the_trainer_writes_no_tensorboard_folder(tmp_path, monkeypatch):
    import logging

    from recbole.trainer import trainer

    monkeypatch.chdir(tmp_path)
    patch = PATCHES["tensorboard-folder"]
    patch.revert()
    try:
        trainer.get_tensorboard(logging.getLogger("recbole_llm.test")).close()
        assert (tmp_path / "log_tensorboard").is_dir()  # as released
    finally:
        patch.apply()
    (tmp_path / "log_tensorboard").rename(tmp_path / "seen")
    writer = trainer.get_tensorboard(logging.getLogger("recbole_llm.test"))
    writer.add_scalar("loss", 1.0, 0)
    writer.add_hparams({}, {})
    writer.close()
    assert not (tmp_path / "log_tensorboard").exists()
