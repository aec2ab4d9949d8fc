"""Planted faults: ``diagnose`` names each of them, and none where nothing was planted."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, init_seed
from synthetic import SMALL_LLMREC, SMALL_UR4REC, checkerboard_settings, cycle_settings, write_checkerboard, write_cycle
from tastes import tastes_settings, write_tastes
from torch import Tensor, nn

from recbole_llm.cli import main
from recbole_llm.config import build_config
from recbole_llm.data.feature_store import AlignedFeature
from recbole_llm.diagnose.health import _leaks, health, health_of_model, health_of_run
from recbole_llm.diagnose.rows import interactions
from recbole_llm.experiment import run
from recbole_llm.experiment.data import build_data, train_loader


class TwoTowers(GeneralRecommender):
    """Probability of a click from an id tower and a text branch; two faults can be switched on.

    saturated: sigmoid(10 cos) of ReLU outputs, as the news recommender had it. untrained: its text branch runs under
    no_grad, as that one's graph branch did.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset, saturated: bool = False, untrained: bool = False) -> None:
        super().__init__(config, dataset)
        self.label, self.saturated, self.untrained = config["LABEL_FIELD"], saturated, untrained
        text = torch.from_numpy(dataset.features["content"].matrix)
        self.register_buffer("text", text)
        self.user_embedding, self.item_embedding = nn.Embedding(self.n_users, 16), nn.Embedding(self.n_items, 16)
        self.branch = nn.Sequential(nn.Linear(text.shape[1], 32), nn.ReLU(), nn.Linear(32, 16))
        self.user_tower, self.item_tower = (nn.Linear(16, 32) for _ in range(2))
        self.on = nn.ReLU()
        self.bias = nn.Parameter(torch.tensor(-1.0))  # against the products of ReLU outputs, which are never negative
        for tower in (self.user_tower, self.item_tower):
            nn.init.constant_(tower.bias, 1.0)

    def logits(self, interaction) -> Tensor:
        items = interaction[self.ITEM_ID]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.untrained):
            text = self.branch(self.text[items])
        user = self.user_tower(self.user_embedding(interaction[self.USER_ID]))
        item = self.item_tower(self.item_embedding(items) + text)
        if self.saturated:
            return 10.0 * torch.cosine_similarity(self.on(user), self.on(item), dim=1)
        return self.bias + (self.on(user) * self.on(item)).sum(1) / 32

    def calculate_loss(self, interaction) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.logits(interaction), interaction[self.label])

    def predict(self, interaction) -> Tensor:
        return torch.sigmoid(self.logits(interaction))


def permuted(tokens, rows):
    """The rows in another order than the tokens: the fault of an index that is not the file's."""
    return tokens, rows[np.random.default_rng(1).permutation(len(rows))]


def few(tokens, rows):
    """Every 33rd row: 3 %."""
    return tokens[::33], rows[::33]


def constant(tokens, rows):
    """One row for all."""
    return tokens, np.repeat(rows[:1], len(rows), axis=0)


def towers(tmp_path, model=None, **data_faults):
    """Health of TwoTowers after a short training on click labels."""
    folder = write_tastes(tmp_path, **data_faults)
    changes = {"threshold": {"rating": 4}, "item_features": ["content", "mood"]}
    # a context-aware model's settings: labelled rows, no negatives
    config = build_config("DeepFM", "tastes", (), tastes_settings(folder, **changes), ())
    data = build_data(config)
    init_seed(3, True)
    model = (model or TwoTowers)(config, data.train)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.001)
    for _ in range(2):
        for batch in train_loader(config, data):
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
    found = health(config, data, model.eval(), trained=True)
    assert not data.split.test_opened
    return found


def judged(found) -> set[tuple[str, str, str]]:
    """Check, severity and subject of all findings that are more than notes."""
    return {(f.check, f.severity, f.subject) for f in found.findings if f.severity != "note"}


FAULTS = {
    "saturated sigmoid": ({"model": partial(TwoTowers, saturated=True)}, ("saturated-scores", "error", "scores")),
    "permuted rows": ({"content": permuted}, ("alignment", "error", "content")),
    "3 % coverage": ({"content": few}, ("low-coverage", "error", "content")),
    "untrained branch": ({"model": partial(TwoTowers, untrained=True)}, ("untrained-branch", "error", "branch")),
    "label leak": ({"minutes_tell": True}, ("label-leak", "error", "minutes")),
    "constant feature": ({"content": constant}, ("constant-feature", "error", "content")),
}


# what a fault brings along: no probability near the base rate; units that read the same row for every item
CONSEQUENCES = {"saturated sigmoid": {"score-range"}, "constant feature": {"dead-units"}}


class TestPlantedFaults:
    def test_without_a_fault_nothing_is_found(self, tmp_path):
        assert judged(towers(tmp_path)) == set()

    @pytest.mark.parametrize("name", list(FAULTS))
    def test_each_is_named_and_no_other(self, tmp_path, name):
        fault, expected = FAULTS[name]
        found = judged(towers(tmp_path, **fault))
        assert expected in found
        assert {check for check, *_ in found} - {expected[0]} <= CONSEQUENCES.get(name, set())


GRAPHS = {"field_dim": 8, "attention_heads": 2, "graph_hidden": 8, "graph_content_dim": 8}
SHORT = {"epochs": 3, "show_progress": False, "state": "WARNING"}
MODELS = {
    "AGLRec": {"text_dim": 8, "cold_dim": 8, "temperature": 0.1, "num_negatives": 0},
    "EmerGLLMRec": SMALL_LLMREC | GRAPHS | {"epochs_per_stage": [1, 2]},
    "UR4RecMoE": SMALL_UR4REC | {"epochs_per_stage": [1, 1, 1, 1]},
    "BPR": {},
    "LightGCN": {},
}
SLOW = ("UR4RecMoE", "EmerGLLMRec")  # to train


class TestHealthyRuns:
    @pytest.mark.parametrize("model", [pytest.param(m, marks=pytest.mark.slow) if m in SLOW else m for m in MODELS])
    def test_have_no_finding_that_counts(self, tmp_path, model):
        sequential = model == "UR4RecMoE"
        folder = (write_cycle if sequential else write_checkerboard)(tmp_path)
        base = (cycle_settings if sequential else checkerboard_settings)(folder)
        settings = base | SHORT | MODELS[model] | {"run_dir": str(folder / "runs")}
        done = run(model, "cycle" if sequential else "checkerboard", settings)
        assert judged(health_of_run(done.run_folder)) == set()

    @pytest.mark.parametrize("model", ["AGLRec", "SASRec", "DeepFM", "Pop"])
    def test_nor_do_models_before_training(self, tmp_path, model):
        own = {
            "AGLRec": MODELS["AGLRec"] | {"item_features": ["content", "mood"]},
            "SASRec": {"hidden_size": 16, "n_heads": 2, "n_layers": 1, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 8},
            "DeepFM": {"threshold": {"rating": 4}, "mlp_hidden_size": [16]},
        }.get(model, {})
        config = build_config(model, "tastes", (), tastes_settings(write_tastes(tmp_path)) | own, ())
        found = health_of_model(config)
        assert judged(found) == set()
        assert found.subject["trained"] is False


class TestCommand:
    def command(self, folder, *more):
        settings = tastes_settings(folder) | MODELS["AGLRec"] | {"item_features": ["content", "mood"]}
        given = [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
        return main(["diagnose", "--model=AGLRec", "--dataset=tastes", "--steps=3", *given, *more])

    def test_writes_page_and_numbers(self, tmp_path, capsys):
        folder, out = write_tastes(tmp_path), tmp_path / "out"
        assert self.command(folder, "--strict", "--json", f"--out={out}") == 0
        said = capsys.readouterr().out.splitlines()
        assert json.loads(said[-1])["findings"] == [] and f"wrote {out / 'health.html'}" in said
        page = (out / "health.html").read_text(encoding="utf-8")
        assert "AGLRec on tastes" in page and "<svg" in page
        assert "http" not in page.replace("http://www.w3.org", "")  # nothing is loaded from elsewhere
        numbers = json.loads((out / "health.json").read_text(encoding="utf-8"))
        assert set(numbers["parts"]) == {
            "labels", "features", "alignment", "leaks", "scores", "vectors", "training"
        }  # fmt: skip
        row = numbers["parts"]["features"]["tables"][
            "statistics of the rows that are there, and the share that has one"
        ]
        assert [r["feature"] for r in row] == ["content", "mood"] and row[0]["coverage of interactions"] == 1.0

    def test_strict_fails_on_an_error_alone(self, tmp_path, capsys):
        folder = write_tastes(tmp_path)
        assert self.command(folder, "--placebo=shuffle") == 0
        assert self.command(folder, "--placebo=shuffle", "--strict") == 1
        assert "error: alignment, content" in capsys.readouterr().out
        page = (folder / "runs" / "health" / "AGLRec-tastes" / "health.html").read_text(encoding="utf-8")
        assert '<li class="error">' in page and "placebo shuffle" in page

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "name either a run with --checkpoint"),
            (["--checkpoint=x", "--model=BPR"], "name either a run with --checkpoint"),
            (["--checkpoint=x", "--epochs=3"], "--epochs=3 cannot be given beside --checkpoint"),
            (["--checkpoint=nowhere"], "is not a run folder"),
            (["--model=BPR"], "no dataset given"),
            (["--model=BPRR", "--dataset=ml-100k"], "unknown model 'BPRR'"),
            (["--model=BPR", "--dataset=ml-100k", "--epoch=3"], "epoch"),
            (["--model=BPR", "--dataset=ml-100k", "--steps=-1"], "--steps must be at least 0"),
            (["--model=BPR", "--dataset=ml-100k", "--graphs"], "feature graphs are learned"),
            (["--checkpoint=x", "--strongest=3"], "give --graphs with it"),
            (["--checkpoint=x", "--graphs", "--strict"], "do not go together with --graphs"),
        ],
    )
    def test_bad_arguments_are_one_sentence(self, arguments, message, capsys):
        assert main(["diagnose", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error:") and message in said


class TestTextsAboutUsers:
    """Of a model without labels: what a user's feature knows of the items held out from him."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory):
        folder = write_tastes(tmp_path_factory.mktemp("users"))
        config = build_config("BPR", "tastes", (), tastes_settings(folder), ())
        return config, build_data(config)

    @pytest.mark.parametrize(
        ("parts", "leaky"), [(["train"], False), ([], False), (["train", "valid"], True), (["valid"], True)]
    )
    def test_held_out_items_are_noticed(self, made, parts, leaky):
        config, data = made
        rows = np.concatenate([*(getattr(data.split, part) for part in parts), np.empty(0, np.int64)])
        text = np.random.default_rng(0).normal(size=(data.n_items, 128))
        noise = np.random.default_rng(1).normal(size=(data.base.user_num, 128))
        profiles = (interactions(data, rows.astype(np.int64)) @ text + 0.3 * noise).astype(np.float32)
        there = np.arange(len(profiles)) > 0
        feature = AlignedFeature("profile", "user_id", profiles, there, {"split": "said"}, "user")
        data.features = {"profile": feature}
        part = _leaks(config, data, None)
        assert any("held-out" in caption for caption in part.tables)
        assert [(f.check, f.subject) for f in part.findings] == ([("label-leak", "profile")] if leaky else [])


@pytest.mark.parametrize("model", ["BPR", "RP3beta"])  # held out by time, and at random
def test_a_column_that_says_who_is_held_out_is_noticed(tmp_path, model):
    config = build_config(model, "tastes", (), tastes_settings(write_tastes(tmp_path)), ())
    data = build_data(config)
    assert _leaks(config, data, None).findings == []
    fold = np.zeros(len(data.user_ids))
    fold[data.split.valid] = 1.0
    data.base.inter_feat["minutes"] = fold
    assert [(f.check, f.subject) for f in _leaks(config, data, None).findings] == [("split-column", "minutes")]
