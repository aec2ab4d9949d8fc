"""Stages: what each trains, what it starts from, how it is configured."""

import dataclasses

import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils import init_seed
from synthetic import SMALL_SASREC, SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.experiment.data import build_data, eval_data, train_loader
from recbole_llm.registry import resolve_model
from recbole_llm.trainer import checkpoint
from recbole_llm.trainer.staged import Stage, StagedTraining, stages_of

STAGES = [
    {"name": "pretrain_sasrec", "groups": {"sasrec": "sasrec_lr"}},
    {"name": "pretrain_retriever", "groups": {"retriever": "retriever_lr"}},
    {"name": "joint_finetune", "groups": {"sasrec": 0.0003, "retriever": "retriever_lr"}, "epochs": 1},
    {"name": "end_to_end", "groups": {"sasrec": 0.0002, "retriever": 0.0001}, "patience": 1, "lr_schedule": "constant"},
]
RATES = {"sasrec_lr": 0.01, "retriever_lr": 0.005}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


def training(folder, run, model="UR4RecMoE", **changes):
    """StagedTraining with its loader and validation data, and the lines it reports."""
    run.mkdir(exist_ok=True)
    small = SMALL_UR4REC | {"stages": STAGES, "epochs_per_stage": [3, 2, 2, 2]} | RATES
    settings = cycle_settings(folder) | (small if model == "UR4RecMoE" else SMALL_SASREC)
    settings |= {"checkpoint_dir": str(run), "valid_metric": "NDCG@5", "weight_decay": 0.01}
    config = build_config(model, "cycle", (), settings | changes, ())
    data = build_data(config)
    init_seed(1, True)
    module = resolve_model(model)(config, data.train)
    lines = []
    staged = StagedTraining(config, module, Trainer, run, {"model": model}, lines.append)
    return staged, train_loader(config, data), eval_data(config, data, "valid"), lines


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    staged, loader, valid, lines = training(folder, run)
    trainer = staged.fit(loader, valid, resume=False, show_progress=False)
    states = [checkpoint.load(staged.best_file(k)) for k in range(4)]
    return staged, trainer, valid, states, lines


class TestFourStages:
    def test_each_starts_from_the_best_of_the_one_before(self, trained):
        results = trained[0].results
        assert [r.name for r in results] == [s["name"] for s in STAGES]
        assert results[0].start_valid is None
        for before, after in zip(results, results[1:], strict=False):
            # to the last digit but for the first change of score, from the backbone's to the fused one of equal ranking
            assert after.start_valid == pytest.approx(before.best_valid, abs=1e-12)

    def test_validation_never_falls(self, trained):
        results = trained[0].results
        scores = [results[0].best_valid, *(v for r in results[1:] for v in (r.start_valid, r.best_valid))]
        assert scores == sorted(scores) and scores[-1] > scores[0] - 1e-12
        assert all(r.best_valid == r.valid["ndcg@5"] for r in results)

    def test_the_trainer_ends_with_the_best_weights(self, trained):
        staged, trainer, valid, states, _ = trained
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, states[3]["state_dict"][name])
        assert trainer.evaluate(valid, load_best_model=False)["ndcg@5"] == staged.results[-1].best_valid

    def test_a_frozen_group_does_not_move(self, trained):
        staged, trainer, _, states, _ = trained
        names = {id(p): n for n, p in trainer.model.named_parameters()}
        group = {g: {names[id(p)] for p in ps} for g, ps in trainer.model.parameter_groups().items()}

        def moved(k: int) -> set[str]:
            before, after = states[k - 1]["state_dict"], states[k]["state_dict"]
            return {name for name in before if not torch.equal(before[name], after[name])}

        assert not moved(1) & group["sasrec"]  # weight decay must not reach it either
        if staged.results[1].best_epoch > 0:
            assert moved(1)

    def test_what_was_trained_is_recorded(self, trained):
        results = trained[0].results
        model = trained[1].model
        sizes = {g: sum(p.numel() for p in ps) for g, ps in model.parameter_groups().items()}
        assert [r.trainable for r in results] == [
            sizes["sasrec"],
            sizes["retriever"],
            sizes["sasrec"] + sizes["retriever"],
            sizes["sasrec"] + sizes["retriever"],
        ]
        assert [r.epochs for r in results] == [3, 2, 1, 2]
        assert [len(r.train_loss) for r in results] == [3, 2, 1, 2]
        assert results[1].groups == {"retriever": 0.005}

    def test_every_epoch_is_reported(self, trained):
        lines = trained[4]
        assert len(lines) == 8
        assert lines[0].startswith("pretrain_sasrec 1/3: loss ") and "ndcg@5 0." in lines[0]
        assert lines[-1].startswith("end_to_end 2/2: ")


def test_a_frozen_group_keeps_every_bit_while_the_other_trains(folder, tmp_path):
    """Seen directly, whatever the best epoch was."""
    staged, loader, valid, _ = training(folder, tmp_path / "run")
    trainer = staged._trainer(1)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer._train_epoch(loader, 0)
    frozen = {id(p) for p in trainer.model.parameter_groups()["sasrec"]}
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) in frozen), name


def test_learning_rates_reach_the_optimiser_by_group(folder, tmp_path):
    staged, _, _, _ = training(folder, tmp_path / "run")
    groups = staged.model.parameter_groups()
    for k, expected in enumerate(
        [
            {"sasrec": 0.01},
            {"retriever": 0.005},
            {"sasrec": 0.0003, "retriever": 0.005},
            {"sasrec": 0.0002, "retriever": 0.0001},
        ]
    ):
        optimizer = staged._trainer(k).optimizer
        assert [g["lr"] for g in optimizer.param_groups] == list(expected.values())
        for group, name in zip(optimizer.param_groups, expected, strict=True):
            assert {id(p) for p in group["params"]} == {id(p) for p in groups[name]}


@pytest.mark.parametrize("schedule, factors", [("constant", [1, 1, 1]), ("cosine", [1, 0.51, 0.02])])
def test_learning_rates_of_a_stage_s_epochs(folder, tmp_path, schedule, factors):
    stages = [{"name": "joint_finetune", "groups": {"sasrec": 0.01, "retriever": 0.002}, "lr_schedule": schedule}]
    staged, _, _, _ = training(folder, tmp_path / "run", stages=stages, epochs_per_stage=[3])
    trainer, seen = staged._trainer(0), []
    trainer._guarded_epoch = lambda *_: None  # the rates are set before the first batch
    for epoch in range(3):
        trainer._train_epoch(None, epoch)
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
    assert seen == [pytest.approx([0.01 * factor, 0.002 * factor]) for factor in factors]


@pytest.mark.slow
def test_the_checkpoint_that_a_stage_starts_from_competes_for_its_best(folder, tmp_path):
    """A second stage that ruins the model at once keeps the first stage's weights, and ends when patience does."""
    stages = [STAGES[0], {"name": "end_to_end", "groups": {"sasrec": 50.0}, "epochs": 20, "patience": 2}]
    staged, loader, valid, _ = training(folder, tmp_path / "run", stages=stages, epochs_per_stage=[6], sasrec_lr=0.02)
    trainer = staged.fit(loader, valid, resume=False, show_progress=False)
    first, second = staged.results
    assert first.best_valid > 0.9  # something was there to be ruined
    assert (second.best_epoch, second.best_valid) == (0, second.start_valid)
    assert second.epochs == 3  # more than two validations without a new best
    weights = checkpoint.load(staged.best_file(0))["state_dict"]
    assert all(torch.equal(v, weights[n]) for n, v in trainer.model.state_dict().items())


def test_a_model_without_stages_trains_in_one(folder, tmp_path):
    staged, loader, valid, _ = training(folder, tmp_path / "run", "SASRecAll", epochs=2, stopping_step=4)
    assert staged.stages == [Stage("train", {"all": staged.config["learning_rate"]}, 2, 4, "cosine")]
    staged.fit(loader, valid, resume=False, show_progress=False)
    assert [(r.name, r.epochs) for r in staged.results] == [("train", 2)]
    assert staged.best_file(0).name == "best-1-train.pt" and staged.last_file.is_file()
    # whoever changes what is kept raises the format
    weights = {"format", "identity", "stage", "epoch", "state_dict", "other_parameter"}
    state = {"cur_step", "best_valid_score", "best_valid_result", "train_loss", "valid_curve", "epoch_seconds"}
    state |= {"eval_seconds", "optimizer", "rng", "loader", "stage_index", "start_valid", "results"}
    kept = [checkpoint.load(file) for file in (staged.best_file(0), staged.last_file)]
    assert (checkpoint.FORMAT, *map(set, kept)) == (2, weights, weights | state)
    assert [epoch for epoch, _ in staged.results[0].valid_curve] == [1, 2]
    assert kept[1]["valid_curve"] == staged.results[0].valid_curve


def test_closed_form_models_are_only_validated(folder, tmp_path):
    staged, loader, valid, _ = training(folder, tmp_path / "run", "Markov")
    staged.fit(loader, valid, resume=False, show_progress=False)
    (result,) = staged.results
    assert result.epochs == 0 and result.best_valid > 0.9 and result.trainable == 0


@pytest.mark.parametrize("model", ["UR4RecMoE", "SASRecAll"])
def test_no_epochs_leave_the_untrained_model(folder, tmp_path, model):
    staged, loader, valid, _ = training(folder, tmp_path / "run", model, epochs_per_stage=[0, 0, 0, 0], epochs=0)
    staged.stages = [dataclasses.replace(stage, epochs=0) for stage in staged.stages]
    before = {n: v.clone() for n, v in staged.model.state_dict().items()}
    trainer = staged.fit(loader, valid, resume=False, show_progress=False)
    assert all(torch.equal(v, before[n]) for n, v in trainer.model.state_dict().items())
    assert [(r.epochs, r.best_epoch) for r in staged.results] == [(0, 0)] * len(staged.stages)
    assert staged.results[-1].valid["ndcg@5"] > 0


@pytest.mark.slow
class TestResume:
    class Killed(BaseException):
        pass

    @pytest.mark.parametrize("killed_after", [1, 3, 4, 6, 8])
    def test_any_epoch_of_any_stage(self, folder, trained, tmp_path, monkeypatch, killed_after):
        """Killed right after the n-th epoch was kept: the rest of the run is the same, bit for bit."""
        staged, loader, valid, _ = training(folder, tmp_path / "run")
        real, kept = checkpoint.save, []

        def save(path, state):
            real(path, state)
            kept.append(path)
            if sum(p.name == "last.pt" for p in kept) == killed_after:
                raise self.Killed

        monkeypatch.setattr(checkpoint, "save", save)
        with pytest.raises(self.Killed):
            staged.fit(loader, valid, resume=False, show_progress=False)
        monkeypatch.undo()

        torch.manual_seed(12345)
        staged, loader, valid, lines = training(folder, tmp_path / "run")
        torch.manual_seed(999)  # a new process draws other numbers until the state is restored
        trainer = staged.fit(loader, valid, resume=True, show_progress=False)
        assert lines[0].startswith("resuming after epoch ") and len(lines) == 1 + 8 - killed_after
        for ours, theirs in zip(staged.results, trained[0].results, strict=True):
            timed = {"seconds_per_epoch": 0.0, "eval_seconds": 0.0}
            assert dataclasses.asdict(ours) | timed == dataclasses.asdict(theirs) | timed
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, trained[3][3]["state_dict"][name])

    def test_nothing_to_resume_starts_at_the_beginning(self, folder, tmp_path):
        staged, loader, valid, lines = training(folder, tmp_path / "run", stages=STAGES[:1], epochs_per_stage=[1])
        staged.fit(loader, valid, resume=True, show_progress=False)
        assert lines[0].startswith("pretrain_sasrec 1/1")


class TestConfiguration:
    def stages(self, folder, **changes):
        settings = cycle_settings(folder) | SMALL_UR4REC | RATES | {"stages": STAGES} | changes
        return stages_of(build_config("UR4RecMoE", "cycle", (), settings, ()))

    def test_all_of_it(self, folder):
        assert self.stages(folder, epochs_per_stage=[4, 3, 2, 1], patience=7) == [
            Stage("pretrain_sasrec", {"sasrec": 0.01}, 4, 7, "cosine"),
            Stage("pretrain_retriever", {"retriever": 0.005}, 3, 7, "cosine"),
            Stage("joint_finetune", {"sasrec": 0.0003, "retriever": 0.005}, 1, 7, "cosine"),
            Stage("end_to_end", {"sasrec": 0.0002, "retriever": 0.0001}, 1, 1, "constant"),
        ]

    @pytest.mark.parametrize(
        "entry, message",
        [
            ({"name": "a"}, r"stages\[0\] needs the keys name and groups"),
            ({"groups": {"sasrec": 0.1}}, r"stages\[0\] needs the keys name and groups"),
            ("pretrain", r"stages\[0\] needs the keys name and groups"),
            ({"name": "a", "groups": {"sasrec": 0.1}, "epoch": 3}, r"stages\[0\] \(a\) has an unknown key 'epoch'"),
            (
                {"name": "a", "groups": {"sasrec": "no_such_lr"}},
                "stage a: learning rate 'no_such_lr' is not a number > 0",
            ),
            ({"name": "a", "groups": {"sasrec": -0.1}}, "stage a: learning rate -0.1 is not a number > 0"),
            ({"name": "a", "groups": {"sasrec": True}}, "stage a: learning rate True is not a number > 0"),
            ({"name": "a", "groups": ["sasrec"]}, "stage a: groups must map"),
            ({"name": "a", "groups": {"sasrec": 0.1}, "epochs": "many"}, "stage a: epochs must be a whole number"),
            (
                {"name": "a", "groups": {"sasrec": 0.1}, "lr_schedule": "linear"},
                "stage a: lr_schedule is 'linear'; choose constant, cosine or plateau",
            ),
            ({"name": "a", "groups": {"sasrec": 0.1}, "patience": -1}, "stage a: patience must be a whole number"),
        ],
    )
    def test_what_is_wrong_is_named(self, folder, entry, message):
        with pytest.raises(ConfigError, match=message):
            self.stages(folder, stages=[entry])

    @pytest.mark.parametrize("stages", [STAGES, None])
    def test_without_validation_there_is_nothing_to_choose_by(self, folder, stages):
        with pytest.raises(ConfigError, match="eval_step must be at least 1"):
            self.stages(folder, eval_step=0, stages=stages)

    def test_an_unknown_group_names_those_there_are(self, folder, tmp_path):
        stages = [{"name": "first", "groups": {"backbone": 0.1}}]
        staged, loader, valid, _ = training(folder, tmp_path / "run", stages=stages)
        with pytest.raises(ConfigError, match="trains the group 'backbone', but UR4RecMoE has retriever, sasrec"):
            staged.fit(loader, valid, resume=False, show_progress=False)
