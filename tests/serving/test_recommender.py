"""Recommendations against naive oracles: history, masks and order made by hand from the interaction file."""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.interaction import Interaction

import recbole_llm
from recbole_llm.comparison.foreign import import_recommendations
from recbole_llm.data.atomic import read_atomic
from recbole_llm.errors import CheckpointError, ConfigError, DataError
from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.experiment import RunResult, load, run
from recbole_llm.experiment.data import eval_data
from recbole_llm.serving import recommender as module
from recbole_llm.serving.files import write_recommendations
from recbole_llm.serving.recommender import Recommender
from recbole_llm.trainer.fold_in import fold_in

SMALL = {
    "embedding_size": 8,
    "mf_embedding_size": 8,
    "mlp_embedding_size": 8,
    "mlp_hidden_size": [8],
    "latent_dimension": 8,
    "k": 10,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 256,
    "epochs": 2,
    "learning_rate": 0.05,
    "use_gpu": False,
    "state": "WARNING",
    "show_progress": False,
}
CLICKS = {
    "metrics": ["AUC"],
    "threshold": {"rating": 3},
    "load_col": {"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "class"]},
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_dataset):
    return tiny_dataset(tmp_path_factory.mktemp("tiny"), n_items=60)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Function from model and settings to a run folder, trained once."""
    runs, made = tmp_path_factory.mktemp("runs"), {}

    def train(model: str, **changes):
        key = (model, repr(sorted(changes.items())))
        if key not in made:
            place = {"data_path": str(folder), "run_dir": str(runs / str(len(made)))}
            result = run(model, "tiny", SMALL | place | changes)
            made[key] = runs / str(len(made)) / result.run_folder.rsplit("/", 1)[-1]
        return made[key]

    return train


def interactions(folder) -> dict[str, list[str]]:
    """User -> items, oldest first; equal times keep file order."""
    frame = read_atomic(folder / "tiny" / "tiny.inter").sort_values("timestamp", kind="stable")
    return frame.groupby("user_id")["item_id"].agg(list).to_dict()


def by_hand(scores: np.ndarray, items: list[str], used: list[str], topk: int) -> list[tuple[str, float]]:
    """Best unused items of one user; scores without ties."""
    left = [(item, float(score)) for item, score in zip(items, scores, strict=True) if item not in used]
    return sorted(left, key=lambda pair: -pair[1])[:topk]


def check(frame: pd.DataFrame, expected: dict[str, list[tuple[str, float]]]) -> None:
    assert list(dict.fromkeys(frame["user"])) == [user for user, own in expected.items() if own]
    for user, own in frame.groupby("user"):
        assert list(own["rank"]) == list(range(1, len(own) + 1))
        assert list(own["item"]) == [item for item, _ in expected[user]], user
        np.testing.assert_allclose(own["score"], [score for _, score in expected[user]], rtol=1e-4, atol=1e-5)


def naive(folder, home, score_user, topk: int) -> dict[str, list[tuple[str, float]]]:
    """Lists of all users by ``score_user(model, data, user id, items used) -> [n_items]``, one user at a time."""
    model, data = load(home)
    users, items = data.base.field2id_token["user_id"], [str(item) for item in data.base.field2id_token["item_id"]]
    used, expected = interactions(folder), {}
    for user_id in range(1, len(users)):
        own = used[users[user_id]]
        with torch.no_grad():
            scores = np.asarray(score_user(model, data, user_id, own))
        expected[str(users[user_id])] = by_hand(scores[1:], items[1:], own, topk)
    return expected


def full_sort(model, data, user_id, used):
    return model.full_sort_predict(Interaction({"user_id": torch.tensor([user_id])})).view(-1)


def pairs(model, data, user_id, used):
    both = {"user_id": torch.full((data.n_items,), user_id), "item_id": torch.arange(data.n_items)}
    return model.predict(data.train.join(Interaction(both)))


def ease_row(model, data, user_id, used):
    row = np.zeros(data.n_items, dtype=np.float32)
    row[[data.base.field2token_id["item_id"][item] for item in used]] = 1
    return np.asarray(row @ model.item_similarity).ravel()


def sequence(model, data, user_id, used):
    ids = [data.base.field2token_id["item_id"][item] for item in used][-8:]
    inputs = {"item_id_list": [ids + [0] * (8 - len(ids))], "item_length": [len(ids)]}
    return model.full_sort_predict(Interaction({name: torch.tensor(value) for name, value in inputs.items()})).view(-1)


@pytest.mark.parametrize(
    ("model", "score_user", "settings"),
    [
        ("BPR", full_sort, {}),
        ("BPR", full_sort, {"evaluator": "recbole"}),  # RecBole's own evaluator, whose data gives no scores
        ("BPR", full_sort, {"mask_history": False}),  # the evaluation masks nothing
        ("EASE", ease_row, {"reg_weight": 3.0}),
        ("NeuMF", pairs, {}),  # has no full_sort_predict
        slow("FM", pairs, CLICKS),  # reads columns of items
        slow("SASRecAll", sequence, {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "inner_size": 8}),
        ("Markov", sequence, {}),
    ],
)
def test_lists_are_those_of_a_loop_over_users(folder, trained, model, score_user, settings):
    home = trained(model, **settings)
    frame = Recommender.from_run(home).recommend(topk=7)
    check(frame, naive(folder, home, score_user, 7))
    assert frame.dtypes.astype(str).to_dict() == {
        "user": "object",
        "rank": "int64",
        "item": "object",
        "score": "float32",
    }


@pytest.mark.parametrize("model", ["Pop", "EASE", *(slow(name) for name in ("BPR", "ItemKNN", "MultiVAE", "Markov"))])
def test_known_history_gives_the_lists_of_the_evaluation(trained, model):
    """Masked, folded in and ordered, ties included, as the lists that the test metrics are made of."""
    home = trained(model)
    net, data = load(home)
    test = eval_data(data.config, data, "test")
    if data.config["MODEL_TYPE"].name in ("GENERAL", "TRADITIONAL"):
        fold_in(net, test.known_dataset())
    task = test.tasks[0]
    with torch.no_grad():
        found = evaluate(task, test.scorer(net, torch.device("cpu")), metrics=["hit"], topk=[10])
    users, items = data.base.field2id_token["user_id"], data.base.field2id_token["item_id"]
    frame = Recommender.from_run(home, "known").recommend(topk=10)
    for user_id, top in zip(task.user_ids, found.top_items, strict=True):
        assert list(frame["item"][frame["user"] == users[user_id]]) == [items[item] for item in top if item]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_comparison_scores_the_lists_as_the_run_was_scored(folder, trained, tmp_path, ending):
    home = trained("EASE")
    result = RunResult.from_json((home / "result.json").read_text())
    path = tmp_path / f"lists{ending}"
    write_recommendations(path, Recommender.from_run(home, "known").recommend(topk=20))
    settings = {"data_path": str(folder), "use_gpu": False, "show_progress": False}
    record = import_recommendations(
        path, label="x", dataset="tiny", protocol="loo-full", settings=settings, out=tmp_path
    )
    assert record.result.test == pytest.approx(result.test, abs=1e-12)


class TestHistory:
    @pytest.mark.parametrize("model", ["Pop", "BPR", "Markov", slow("MultiVAE")])
    def test_nothing_used_is_recommended(self, folder, trained, model):
        used = interactions(folder)
        frame = Recommender.from_run(trained(model)).recommend(topk=60)
        left = {user: {f"i{k}" for k in range(1, 61)} - set(own) for user, own in used.items()}
        seen = set().union(*used.values())  # items that nobody used are not in the dataset
        assert frame.groupby("user")["item"].agg(set).to_dict() == {u: own & seen for u, own in left.items()}

    def test_known_leaves_exactly_the_test_item(self, folder, trained):
        lists = {
            history: Recommender.from_run(trained("Pop"), history).recommend(topk=60).groupby("user")["item"].agg(set)
            for history in ("all", "known")
        }
        _, data = load(trained("Pop"))
        users, items = data.base.field2id_token["user_id"], data.base.field2id_token["item_id"]
        for row in data.split.open_test():
            user = users[data.user_ids[row]]
            assert lists["known"][user] - lists["all"][user] == {items[data.item_ids[row]]}

    @pytest.mark.parametrize("model", ["EASE", "Markov", slow("MultiVAE"), slow("ItemKNN")])
    def test_the_test_item_is_read(self, trained, model):
        scores = []
        for history in ("all", "known"):
            made = Recommender.from_run(trained(model), history)
            with torch.no_grad():
                scores.append(made.scorer(made.user_ids())(np.arange(40)))
        assert (scores[0] != scores[1]).any(1).float().mean() > 0.5

    def test_users_and_items_whose_rows_are_dropped(self, folder, trained):
        """min_rating leaves some users nothing: they get lists, and what they rated low is not among them."""
        home = trained("EASE", min_rating=4, min_user_inter=5)
        model, data = load(home)
        kept = np.concatenate([data.split.train, data.split.valid])
        bare = set(data.base.field2id_token["user_id"][1:]) - set(
            data.base.field2id_token["user_id"][data.user_ids[kept]]
        )
        frame, used = Recommender.from_run(home).recommend(topk=5), interactions(folder)
        assert 0 < len(bare) < 40 and set(frame["user"]) == set(used)
        for user, own in frame.groupby("user"):
            assert len(own) == 5 and not set(own["item"]) & set(used[user])
            if user in bare:
                assert (own["score"] == 0).all()  # no row that the model reads

    def test_a_user_who_has_used_everything_gets_nothing(self, tmp_path):
        home = tmp_path / "all"
        home.mkdir()
        rows = [(f"u{u}", f"i{k}", k) for u in range(6) for k in range(12 if u == 0 else 4 + u)]
        text = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows)
        (home / "all.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + text)
        settings = {"data_path": str(tmp_path), "run_dir": str(tmp_path / "runs"), "epochs": 1}
        columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
        run("Pop", "all", SMALL | settings | columns)
        (folder,) = (tmp_path / "runs").iterdir()
        assert recbole_llm.recommend(folder, users=["u0"]).empty
        sizes = recbole_llm.recommend(folder, topk=4)["user"].value_counts().to_dict()
        assert sizes == {"u1": 4, "u2": 4, "u3": 4, "u4": 4, "u5": 3}


class TestScores:
    @pytest.fixture
    def made(self, trained):
        return Recommender.from_run(trained("BPR"))

    def test_nan_is_an_error(self, made):
        made.model.item_embedding.weight.data[3] = torch.nan
        with pytest.raises(DataError, match="hold NaN or .inf.*diverged"):
            made.recommend(topk=3)

    def test_minus_infinity_is_not_recommended(self, made):
        def score(rows):
            scores = torch.full((len(rows), made.data.n_items), -torch.inf)
            scores[:, 0] = 9.0  # [PAD]
            scores[rows % 2 == 0, 1:4] = torch.tensor([1.0, 3.0, 2.0])
            return scores

        made.scorer = lambda user_ids: score
        used = {user: set(own) for user, own in interactions_of(made).items()}
        frame = made.recommend(topk=5)
        order = [str(made.item_tokens[k]) for k in (2, 3, 1)]
        for k, user in enumerate(map(str, made.user_tokens[1:])):
            expected = [item for item in order if item not in used[user]] if k % 2 == 0 else []
            assert list(frame["item"][frame["user"] == user]) == expected
        made.scorer = lambda user_ids: lambda rows: score(rows + 1)
        assert made.recommend([str(made.user_tokens[1])]).empty  # nothing for anybody in the batch

    def test_batches_change_nothing(self, made, monkeypatch):
        whole, done = made.recommend(topk=6), []
        monkeypatch.setattr(module, "_SCORES_AT_ONCE", 7 * made.data.n_items)
        pd.testing.assert_frame_equal(made.recommend(topk=6, progress=done.append), whole)
        assert done == [7, 7, 7, 7, 7, 5]

    def test_equal_scores_have_one_order(self, trained):
        made = Recommender.from_run(trained("Pop"))
        whole = made.recommend(topk=10)
        for user in ("u3", "u8"):
            alone = made.recommend([user], topk=10)
            assert alone["score"].duplicated().any()
            assert list(alone["item"]) == list(whole["item"][whole["user"] == user])


def interactions_of(made) -> dict[str, list[str]]:
    data = made.data
    frame = pd.DataFrame({"user": made.user_tokens[data.user_ids], "item": made.item_tokens[data.item_ids]})
    return frame.groupby("user")["item"].agg(list).to_dict()


class TestArguments:
    def test_named_users_come_in_the_order_named(self, trained):
        made = Recommender.from_run(trained("BPR"))
        some = made.recommend(["u9", "u2", "u9"], topk=3)
        assert list(some["user"]) == ["u9"] * 3 + ["u2"] * 3
        whole = made.recommend(topk=3).set_index("user")
        assert list(some["item"]) == [*whole.loc["u9", "item"], *whole.loc["u2", "item"]]

    def test_public_function(self, trained):
        frame = recbole_llm.recommend(trained("BPR"), topk=2, users=["u5"])
        pd.testing.assert_frame_equal(frame, Recommender.from_run(trained("BPR")).recommend(["u5"], 2))
        known = recbole_llm.recommend(trained("EASE"), topk=2, users=["u5"], history="known")
        pd.testing.assert_frame_equal(known, Recommender.from_run(trained("EASE"), "known").recommend(["u5"], 2))

    @pytest.mark.parametrize(
        ("users", "message"),
        [
            (["u5", "u55"], r"dataset 'tiny' has no user 'u55'; did you mean"),
            (["Anna", "Otto"], r"dataset 'tiny' has no user 'Anna' and 1 more; its users are called like 'u\d+'"),
            (["[PAD]"], r"no user '\[PAD\]'"),
            ([], "no user is named"),
        ],
    )
    def test_unknown_users(self, trained, users, message):
        with pytest.raises(DataError, match=message):
            Recommender.from_run(trained("BPR")).recommend(users)

    def test_other_mistakes(self, trained, tmp_path):
        with pytest.raises(ConfigError, match="topk must be at least 1, not 0"):
            recbole_llm.recommend(trained("BPR"), topk=0)
        with pytest.raises(ConfigError, match="history is 'most'; choose all or known"):
            recbole_llm.recommend(trained("BPR"), history="most")
        with pytest.raises(CheckpointError, match="is not a run folder"):
            recbole_llm.recommend(tmp_path)

    def test_a_file_of_the_run(self, trained):
        home = trained("BPR")
        assert len(recbole_llm.recommend(home / "best.pt", topk=1, users=["u1"])) == 1
        with pytest.raises(CheckpointError, match="last.pt does not hold the weights that the run chose; name best.pt"):
            recbole_llm.recommend(home / "last.pt")

    @pytest.mark.slow
    def test_a_model_that_reads_the_interaction(self, trained, folder, tmp_path):
        """The hour of a click is not known before the click."""
        lines = (folder / "tiny" / "tiny.inter").read_text().splitlines()
        home = tmp_path / "tiny"
        home.mkdir()
        rows = [f"{line}\t{'hour:token' if k == 0 else k % 24}" for k, line in enumerate(lines)]
        (home / "tiny.inter").write_text("\n".join(rows) + "\n")
        columns = {"load_col": {"inter": ["user_id", "item_id", "rating", "hour"]}}
        place = {"data_path": str(tmp_path), "run_dir": str(tmp_path / "runs")}
        run("FM", "tiny", SMALL | CLICKS | columns | place)
        (run_folder,) = (tmp_path / "runs").iterdir()
        with pytest.raises(ConfigError, match="FM reads 'hour' of an interaction, which nobody knows"):
            recbole_llm.recommend(run_folder)
