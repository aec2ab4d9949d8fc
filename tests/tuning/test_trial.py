"""A trial: sees no test row, trains as a run does, goes on where it was broken off, starts from shared stages."""

import numpy as np
import pytest
import torch
from synthetic import SMALL_SASREC, SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.errors import DataError
from recbole_llm.experiment.data import build_data, eval_data
from recbole_llm.experiment.validate import validate
from recbole_llm.tuning.ledger import FINISHED, STOPPED, TRIAL_FILE, Trial, read_trial, write_trial
from recbole_llm.tuning.shared import SharedData
from recbole_llm.tuning.sweep import find, read_file
from recbole_llm.tuning.trial import first_stages, run_trial

STAGES = [
    {"name": "pretrain_sasrec", "groups": {"sasrec": "sasrec_lr"}},
    {"name": "pretrain_retriever", "groups": {"retriever": "retriever_lr"}},
    {"name": "end_to_end", "groups": {"sasrec": "finetune_lr", "retriever": "finetune_lr"}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("data"))


def config_of(folder, model="SASRecAll", **settings):
    small = SMALL_SASREC | {"epochs": 3} if model == "SASRecAll" else SMALL_UR4REC if model == "UR4RecMoE" else {}
    return build_config(model, "cycle", (), cycle_settings(folder) | small | settings, ())


class Broken(Exception):
    """The trial's process is gone."""


def run(config, data, at, stop_after: int | None = None, **more) -> Trial:
    told = []

    def report(now: Trial) -> None:
        told.append(now)
        if stop_after is not None and now.epochs >= stop_after:
            raise Broken

    run.told = told
    return run_trial(read_trial(at) or Trial("t", {}), config, data, at, report, **more)


def test_a_trial_cannot_reach_the_test_rows(folder):
    config = config_of(folder)
    whole = build_data(config)
    rows = whole.split.open_test()
    pairs = {(whole.user_ids[r], whole.item_ids[r]) for r in rows}
    assert len(pairs) == 30
    data = SharedData.prepare(config).of(config)
    with pytest.raises(DataError, match="a trial of a search asked for the test rows, which it is not given"):
        eval_data(config, data, "test")
    with pytest.raises(DataError, match="is read once, for the configuration chosen"):
        data.split.open_test()
    with pytest.raises(DataError, match="not given"):
        data.split.open_phases()
    # not even around the handle: the rows are not in what the trial's process holds
    assert data.split._test is None
    frame = data.base.inter_feat
    kept = set(zip(frame[data.base.uid_field], frame[data.base.iid_field], strict=True))
    assert not pairs & kept and not pairs & set(zip(data.user_ids, data.item_ids, strict=True))
    assert (data.base.raw.items[rows] == "").all() and (data.base.raw.times[rows] == 0).all()
    # what it may see is unchanged
    assert data.split.fingerprint == whole.split.fingerprint
    for part in (whole.split.train, whole.split.valid):
        assert np.array_equal(data.item_ids[part], whole.item_ids[part])
    assert torch.equal(data.train.inter_feat[data.base.iid_field], whole.train.inter_feat[data.base.iid_field])


@pytest.mark.parametrize("evaluator", ["recbole_llm", "recbole"])
@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_nor_those_of_recbole_s_evaluator(folder, model, evaluator):
    config = config_of(folder, model, evaluator=evaluator, epochs=1)
    data = SharedData.prepare(config).of(config)
    eval_data(config, data, "valid")
    with pytest.raises(DataError, match="asked for the test rows"):
        eval_data(config, data, "test")


def test_shared_data_are_those_of_a_trial_unless_its_settings_make_others(folder):
    config = config_of(folder)
    shared = SharedData.prepare(config)
    other = config_of(folder, learning_rate=0.5, chunk_batch_size=4)
    assert shared.of(other).base.inter_feat is shared.data.base.inter_feat
    assert shared.of(other).config is other and shared.of(other).base.config is other
    own = shared.of(config_of(folder, split_seed=9, protocol="rs-full"))
    assert own.base.inter_feat is not shared.data.base.inter_feat
    with pytest.raises(DataError, match="asked for the test rows"):
        own.split.open_test()


@pytest.mark.parametrize("model", ["SASRecAll", "Pop"])
def test_a_trial_trains_as_a_run_does(folder, tmp_path, model):
    config = config_of(folder, model)
    done = run(config, SharedData.prepare(config).of(config), tmp_path)
    assert done.status == FINISHED and done.valid == validate(config_of(folder, model))
    assert done.score == done.valid["ndcg@10"] == done.order
    assert read_trial(tmp_path) == done and not list(tmp_path.glob("*.pt"))
    if model == "SASRecAll":
        assert [now.epochs for now in run.told] == [1, 2, 3] == [now.compared_epochs for now in run.told]
        assert [epoch for epoch, _ in done.history] == [1, 2, 3]
        assert max(value for _, value in done.history) == done.score


def test_less_may_be_better(folder, tmp_path):
    config = config_of(folder, valid_metric="AveragePopularity@10", metrics=["AveragePopularity", "NDCG"])
    config["valid_metric_bigger"] = False
    done = run(config, SharedData.prepare(config).of(config), tmp_path)
    assert done.order == -done.score and done.score == min(value for _, value in done.history)


def test_what_was_broken_off_goes_on_from_its_epoch(folder, tmp_path):
    config = config_of(folder, epochs=4)
    data = SharedData.prepare(config)
    whole = run(config, data.of(config), tmp_path / "whole")
    with pytest.raises(Broken):
        run(config, data.of(config), tmp_path / "broken", stop_after=2)
    again = run(config, data.of(config), tmp_path / "broken")
    assert [now.epochs for now in run.told] == [3, 4]
    assert (again.valid, again.history) == (whole.valid, whole.history)
    assert (whole.resumed, again.resumed) == ([], [2])


@pytest.mark.parametrize("at", [1, 3, 4])
def test_what_died_between_an_epoch_and_its_record_lacks_nothing(folder, tmp_path, at):
    """The record is one epoch behind the checkpoint, or is not there yet."""
    config = config_of(folder, epochs=4)
    data = SharedData.prepare(config)
    whole = run(config, data.of(config), tmp_path / "whole")
    with pytest.raises(Broken):
        run(config, data.of(config), tmp_path / "broken", stop_after=at)
    record = tmp_path / "broken" / TRIAL_FILE
    record.unlink()
    if at > 1:
        write_trial(record.parent, run.told[-2])
        assert read_trial(record.parent).epochs == at - 1
    again = run(config, data.of(config), record.parent)
    assert (again.valid, again.history, again.epochs) == (whole.valid, whole.history, whole.epochs)
    assert again.resumed == [at] and [now.epochs for now in run.told] == list(range(at + 1, 5))


def test_a_trial_that_ended_keeps_no_checkpoint(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"x")
    write_trial(tmp_path, Trial("t", {}))
    assert (tmp_path / "last.pt").is_file()
    write_trial(tmp_path, Trial("t", {}, status=STOPPED))
    assert not (tmp_path / "last.pt").is_file()


def test_later_settings_of_ur4recmoe_leave_the_first_stage_alone(folder, tmp_path):
    """A trial from the shared first stage is, bit for bit, one that trained it itself, whatever its later settings."""
    common = {"stages": STAGES, "epochs_per_stage": [2, 1, 2], "retriever_chunks": 4}
    base = config_of(folder, "UR4RecMoE", **common)
    data = SharedData.prepare(base)
    first_stages(base, data.of(base), tmp_path / "first", 1)
    assert {path.name for path in (tmp_path / "first").glob("*.pt")} == {"last.pt", "best-1-pretrain_sasrec.pt"}
    space = read_file(find("UR4RecMoE"))
    assert set(space["later_settings"]) == set(space["space"])
    point = {key: domain.ends()[1] for key, domain in space["space"].items()}
    config = config_of(folder, "UR4RecMoE", **common, **point)
    whole = run(config, data.of(config), tmp_path / "whole", n_first=1)
    assert [now.compared_epochs for now in run.told] == [0, 0, 1, 2, 3]
    shared = run(config, data.of(config), tmp_path / "shared", n_first=1, start=tmp_path / "first")
    assert [now.epochs for now in run.told] == [3, 4, 5]
    assert shared.valid == whole.valid and shared.epochs == whole.epochs == 5
    assert shared.history == whole.history[2:]


def test_population_based_training_takes_new_rates(folder, tmp_path):
    config = config_of(folder, epochs=4, lr_schedule="constant", learning_rate=0.01)
    data = SharedData.prepare(config)
    with pytest.raises(Broken):
        run(config, data.of(config), tmp_path, stop_after=2)
    changed = config_of(folder, epochs=4, lr_schedule="constant", learning_rate=1e-9)
    done = run(changed, data.of(changed), tmp_path, new_rates=True)
    assert done.history[-1][1] == pytest.approx(done.history[1][1])  # nothing moves any more
