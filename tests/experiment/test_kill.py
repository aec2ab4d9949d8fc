"""kill -9 at any moment, then the same command with --resume: the same result, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from synthetic import SMALL_UR4REC, cycle_settings, write_cycle

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    {"name": "pretrain_sasrec", "groups": {"sasrec": 0.005}},
    {"name": "pretrain_retriever", "groups": {"retriever": 0.005}},
    {"name": "joint_finetune", "groups": {"sasrec": 0.002, "retriever": 0.002}},
    {"name": "end_to_end", "groups": {"sasrec": 0.001, "retriever": 0.001}},
]


def start(config: Path, runs: Path, *, resume: bool) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run_recbole_llm.py"), "--model=UR4RecMoE", "--dataset=cycle"]
    command += [f"--config_files={config}", f"--run_dir={runs}", "--json"]
    return subprocess.Popen(
        command + ["--resume"] * resume,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=config.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


def kill_after(process: subprocess.Popen, runs: Path, epochs: int, pause: float) -> None:
    """SIGKILL ``pause`` seconds after ``last.pt`` has been written ``epochs`` times."""

    def written() -> int:
        return max((file.stat().st_mtime_ns for file in runs.glob("*/last.pt")), default=0)

    stamp, seen = written(), 0
    while seen < epochs:
        assert process.poll() is None, process.communicate()[1]
        seen, stamp = seen + (written() != stamp), written()
        time.sleep(0.002)
    time.sleep(pause)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_random_moments_of_every_stage(tmp_path):
    write_cycle(tmp_path)
    settings = cycle_settings(tmp_path) | SMALL_UR4REC
    settings |= {
        "stages": STAGES,
        "epochs_per_stage": [2, 2, 2, 2],
        "mask_rate": 0.1,  # draws from the global generator in every batch
    }
    (tmp_path / "cycle.yaml").write_text(yaml.safe_dump(settings))
    whole = finish(start(tmp_path / "cycle.yaml", tmp_path / "whole", resume=False))

    moments = random.Random(0)
    for _ in range(3):  # epochs 2, 4 and 6 of 8 have been kept: in the second, third and fourth stage
        process = start(tmp_path / "cycle.yaml", tmp_path / "killed", resume=True)
        kill_after(process, tmp_path / "killed", epochs=2, pause=moments.random() * 0.2)
    resumed = finish(start(tmp_path / "cycle.yaml", tmp_path / "killed", resume=True))

    for key in ("test", "valid", "experts", "split", "features", "config_hash", "n_parameters"):
        assert resumed[key] == whole[key], key
    timed = ("seconds_per_epoch", "eval_seconds")
    for ours, theirs in zip(resumed["stages"], whole["stages"], strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {k: v for k, v in theirs.items() if k not in timed}
    # seconds before a kill count too
    assert all(stage["eval_seconds"] > 0 and stage["seconds_per_epoch"] > 0 for stage in resumed["stages"])
    epochs = sum(stage["epochs"] * stage["seconds_per_epoch"] for stage in resumed["stages"])
    assert resumed["seconds"]["train"] == pytest.approx(epochs)
    per_user = [next(tmp_path.glob(f"{name}/*/per_user.parquet")).read_bytes() for name in ("whole", "killed")]
    assert per_user[0] == per_user[1]
