"""Imported lists: a model's own lists score exactly as the model; written-out fractions; what is said and refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_llm.comparison.foreign import IMPORTED, NO_SEED, import_recommendations
from recbole_llm.comparison.lists import read_recommendations
from recbole_llm.comparison.record import OK, Record, per_user_file
from recbole_llm.comparison.summary import summarise
from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.evaluation import kernel
from recbole_llm.experiment import load, run
from recbole_llm.experiment.data import build_data, eval_data

SETTINGS = {
    "metrics": ["NDCG", "Hit", "MRR", "ItemCoverage", "AveragePopularity", "GiniIndex", "TailPercentage"],
    "topk": [5, 10],
    "secondary_tasks": {"few": {"n_candidates": 6, "mask_history": False}},
    "use_gpu": False,
    "state": "WARNING",
    "show_progress": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_dataset):
    return tiny_dataset(tmp_path_factory.mktemp("tiny"), n_items=60)


def settings_of(folder, **changes) -> dict:
    return SETTINGS | {"data_path": str(folder)} | changes


def imported(path, folder, tmp_path, *, protocol="loo-full", said=None, **changes) -> Record:
    return import_recommendations(
        path,
        label="Other",
        dataset="tiny",
        protocol=protocol,
        settings=settings_of(folder, **changes),
        out=tmp_path / "out",
        say=None if said is None else said.append,
    )


class TestListsOfAModel:
    """The oracle: a run's own metrics."""

    def exported(self, folder, tmp_path, model: str, protocol: str, **changes):
        """A run, its home, its test tasks, tokens of users and items, and scores of all items."""
        settings = settings_of(folder, protocol=protocol, run_dir=str(tmp_path / "runs"), **changes)
        result = run(model, "tiny", settings)
        (home,) = (tmp_path / "runs").iterdir()
        module, data = load(home)
        test = eval_data(data.config, data, "test")
        with torch.no_grad():
            scores = test.scorer(module, torch.device("cpu"))(np.arange(len(test.tasks[0]))).numpy()
        tokens = (data.base.field2id_token[field] for field in (data.base.uid_field, data.base.iid_field))
        return result, home, test.tasks, *tokens, scores

    # Pop gives many equal scores; rs-full has several positives a user
    @pytest.mark.parametrize(("model", "protocol"), [("Pop", "loo-full"), ("Markov", "loo-full"), ("Pop", "rs-full")])
    def test_scores_of_all_items_give_the_metrics_of_the_run(self, folder, tmp_path, monkeypatch, model, protocol):
        # candidates need one target a user
        changes = {} if protocol == "loo-full" else {"secondary_tasks": {"open": {"mask_history": False}}}
        result, home, tasks, users, items, scores = self.exported(folder, tmp_path, model, protocol, **changes)
        n, m = len(tasks[0]), scores.shape[1] - 1
        table = pd.DataFrame(
            {
                "user_id": np.repeat(users[tasks[0].user_ids], m),
                "item_id": np.tile(items[1:], n),
                "score": scores[:, 1:].ravel(),
            }
        ).sample(frac=1, random_state=1)  # the order of the rows says nothing
        table.to_parquet(tmp_path / "lists.parquet")
        monkeypatch.setattr(kernel, "_SCORES_PER_BATCH", 7 * (m + 1))  # 7 users a batch
        record = imported(tmp_path / "lists.parquet", folder, tmp_path, protocol=protocol, **changes)
        assert record.result.test == result.test and len(result.test) == 2 * 16  # popularity brings novelty along
        assert record.result.split == result.split and record.result.slices == result.slices
        ours = pd.read_parquet(per_user_file(tmp_path / "out", record))
        pd.testing.assert_frame_equal(ours, pd.read_parquet(home / "per_user.parquet"), check_exact=True)

    def test_ranks_of_its_full_lists_give_the_metrics_of_the_run(self, folder, tmp_path):
        result, _, tasks, users, items, scores = self.exported(folder, tmp_path, "Markov", "loo-full")
        task = tasks[0]
        found = kernel.evaluate(
            task, lambda rows: torch.from_numpy(scores[rows]), metrics=["Hit"], topk=[task.n_items - 1]
        )
        rows, places = np.nonzero(found.top_items)
        table = pd.DataFrame(
            {"User": users[task.user_ids[rows]], "ITEM": items[found.top_items[rows, places]], "Rank": places + 1}
        )
        table.to_csv(tmp_path / "lists.csv", index=False)
        said = []
        record = imported(tmp_path / "lists.csv", folder, tmp_path, said=said)
        assert {k: v for k, v in record.result.test.items() if "/" not in k} == {
            k: v for k, v in result.test.items() if "/" not in k
        }
        assert not [line for line in said if ", full: " in line]


class Lists:
    """Lists of the tiny dataset made by hand: for each test user the target, known items and other items."""

    def __init__(self, folder) -> None:
        config = build_config("Pop", "tiny", (), settings_of(folder), ())
        data = build_data(config)
        task = eval_data(config, data, "test").tasks[0]
        users, items = (data.base.field2id_token[f] for f in (data.base.uid_field, data.base.iid_field))
        self.users = [str(u) for u in users[task.user_ids]]
        self.target = {u: str(items[i]) for u, i in zip(self.users, task.pos_items, strict=True)}
        self.known = {
            u: [str(i) for i in items[task.mask_items[task.mask_indptr[k] : task.mask_indptr[k + 1]]]]
            for k, u in enumerate(self.users)
        }
        rng = np.random.default_rng(3)
        self.other = {
            u: [str(i) for i in rng.permutation(items[1:]) if i != self.target[u] and i not in self.known[u]]
            for u in self.users
        }

    def perfect(self) -> dict[str, list[str]]:
        """The target first, then 11 items that are not known."""
        return {u: [self.target[u], *self.other[u][:11]] for u in self.users}


@pytest.fixture(scope="module")
def lists(folder):
    return Lists(folder)


def written(path, of_user: dict[str, list[str]]):
    rows = [(u, i, k + 1) for u, items in of_user.items() for k, i in enumerate(items)]
    pd.DataFrame(rows, columns=["user", "item", "rank"]).to_csv(path, index=False, sep="\t")
    return path


class TestWrittenOut:
    def test_fractions(self, folder, tmp_path, lists):
        """Unknown items hold their places, known history does not, and a user without a list has missed."""
        rows = lists.perfect()
        a, b, c, d = lists.users[:4]
        rows[a] = ["ghost1", "ghost2", *rows[a]]
        rows[b] = [lists.other[b][0], lists.known[b][0], "ghost2", lists.known[b][1], lists.target[b]]
        del rows[c]
        rows[d] = lists.other[d][:12]
        rows["stranger"] = ["i1"]
        said = []
        record = imported(written(tmp_path / "lists.tsv", rows), folder, tmp_path, said=said)
        table = pd.read_parquet(per_user_file(tmp_path / "out", record)).set_index("user")
        expected = dict.fromkeys(lists.users, 1.0) | {a: 1 / 3, b: 1 / 3, c: 0.0, d: 0.0}
        assert table["mrr@10"].to_dict() == pytest.approx(expected, abs=1e-15)
        assert record.result.test["mrr@10"] == pytest.approx((36 + 2 / 3) / 40, abs=1e-12)
        assert record.result.test["hit@5"] == pytest.approx(38 / 40, abs=1e-12)
        slices = record.result.slices.values()
        assert sum(s["rows"] for s in slices) == 40
        assert sum(s["rows"] * s["mrr@10"] for s in slices) == pytest.approx(36 + 2 / 3, abs=1e-12)
        assert said[:3] == [
            "Other, loo-full: 1 users are not in the dataset (e.g. 'stranger'); their lists are ignored",
            f"Other, loo-full: 1 of 40 test users have no list (e.g. '{c}'): all misses",
            "Other, loo-full: 3 recommendations are of items that the dataset lacks (e.g. 'ghost1'): misses",
        ]
        assert said[3:5] == [
            "Other, loo-full, full: 2 recommendations to 1 users are known history, which is masked: left out",
            "Other, loo-full, full: 2 of 40 test users have fewer than 10 items to rank: the rest are misses "
            "(longer lists would fill them)",
        ]
        assert (
            said[5].startswith("Other, loo-full, few: ") and "fewer than 10 items to rank" in said[5] and len(said) == 6
        )

    def test_unknown_items_are_no_recommended_items(self, folder, tmp_path, lists):
        rows = lists.perfect()
        with_ghost = {u: ["ghost1", *items] if k < 9 else items for k, (u, items) in enumerate(rows.items())}
        plain = imported(written(tmp_path / "plain.tsv", rows), folder, tmp_path).result.test
        ghost = imported(written(tmp_path / "ghost.tsv", with_ghost), folder, tmp_path).result.test
        assert plain.keys() == ghost.keys()
        same = {name for name in plain if plain[name] == ghost[name]}
        beyond = {name for name in plain if name.split("/")[-1].split("@")[0] not in ("ndcg", "hit", "mrr")}
        # the targets still are in the lists, and candidates are ranked without the ghost
        assert same == beyond | {"hit@5", "hit@10"} | {name for name in plain if name.startswith("few/")}
        assert ghost["mrr@5"] == pytest.approx((31 + 9 / 2) / 40, abs=1e-12)

    def test_candidates_alone_are_ranked_where_there_are_candidates(self, folder, tmp_path, lists):
        config = build_config("Pop", "tiny", (), settings_of(folder), ())
        data = build_data(config)
        task = eval_data(config, data, "test").tasks[1]
        items = data.base.field2id_token[data.base.iid_field]
        rows = {}
        for k, u in enumerate(lists.users):
            candidates = [str(i) for i in items[task.candidates[k]]]
            rows[u] = [i for i in items[1:] if i not in candidates][:20] + [lists.target[u]]
        said = []
        record = imported(written(tmp_path / "lists.tsv", rows), folder, tmp_path, said=said)
        assert said[-1].startswith("Other, loo-full, few: 40 of 40 test users have fewer than 10 items")
        assert record.result.test["few/mrr@5"] == 1.0 and record.result.test["mrr@5"] < 0.1

    def test_users_that_are_not_tested_are_counted(self, tmp_path, lists, tiny_dataset):
        folder = tiny_dataset(tmp_path / "more", n_items=60)
        with (folder / "tiny" / "tiny.inter").open("a") as file:
            file.write("single\ti1\t5\t880000000\n")  # one interaction is for training
        rows = lists.perfect() | {"single": ["i1"]}
        said = []
        imported(written(tmp_path / "lists.tsv", rows), folder, tmp_path, said=said)
        assert said[0] == "Other, loo-full: 1 users are no test users (e.g. 'single'); their lists are ignored"


class TestRecord:
    def test_what_it_holds(self, folder, tmp_path, lists):
        path = written(tmp_path / "lists.tsv", lists.perfect())
        record = imported(path, folder, tmp_path, metrics=["NDCG"])
        result = record.result
        assert (record.status, record.model, record.seed, record.label) == (OK, IMPORTED, NO_SEED, "Other")
        assert (result.model, result.seed, result.stages, result.valid) == (IMPORTED, NO_SEED, [], {})
        assert result.config["model"] == IMPORTED and result.seconds["train"] == 0.0 < result.seconds["test"]
        assert set(result.test) == {"ndcg@5", "ndcg@10", "few/ndcg@5", "few/ndcg@10"} and result.test["ndcg@5"] == 1.0
        assert Record.from_json(record.to_json()) == record
        assert record.run_name.startswith("Other-tiny-loo-full-")
        other = imported(
            written(tmp_path / "b.tsv", {u: items[:2] for u, items in lists.perfect().items()}), folder, tmp_path
        )
        assert other.data_hash != record.data_hash and other.run_name != record.run_name

    def test_it_stands_in_a_table_beside_a_run(self, folder, tmp_path, lists):
        record = imported(written(tmp_path / "lists.tsv", lists.perfect()), folder, tmp_path)
        result = run("Pop", "tiny", settings_of(folder, run_dir=str(tmp_path / "runs"), protocol="loo-full"))
        pop = Record("Pop", "Pop", "tiny", "loo-full", result.seed, OK, result=result)
        (home,) = (tmp_path / "runs").iterdir()
        per_user_file(tmp_path / "out", pop).write_bytes((home / "per_user.parquet").read_bytes())
        (table,) = summarise(tmp_path / "out", [pop, record], reference="Other", tested=["ndcg@10"])
        rows = {row.label: row for row in table.rows}
        assert rows["Other"].values["ndcg@10"].rank == 1 and rows["Other"].cost.train_seconds == 0.0
        test = rows["Pop"].tests["ndcg@10"]
        assert test.difference == pytest.approx(1.0 - result.test["ndcg@10"]) and test.seeds_p == {}


class TestReading:
    TABLE = pd.DataFrame({"user": ["1", "1", "NA"], "item": ["7", "8", "7"], "rank": [1, 2, 1]})

    @pytest.mark.parametrize(
        "names", [("user", "item", "rank"), ("USER_ID", "Item_Id", "RANK"), ("User", "item", "Score")]
    )
    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
    def test_formats_and_headers(self, tmp_path, names, suffix):
        path, table = tmp_path / f"lists{suffix}", self.TABLE.set_axis(names, axis=1)
        if suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
        read = read_recommendations(path)
        assert read["user"].tolist() == ["1", "1", "NA"] and read["item"].tolist() == ["7", "8", "7"]
        assert read["value"].tolist() == ([1, 2, 1] if "Score" in names else [-1, -2, -1])

    def test_whole_numbers_are_tokens_and_ranks_go_before_scores(self, tmp_path):
        table = self.TABLE.assign(user=[1, 1, 2], item=[7, 8, 7], score=[1.0, 2.0, 3.0])
        table.to_parquet(tmp_path / "lists.parquet")
        read = read_recommendations(tmp_path / "lists.parquet")
        assert read["user"].tolist() == ["1", "1", "2"] and read["value"].tolist() == [-1, -2, -1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("item,rank\n1,1\n", r"has no column user \(columns: item, rank\)"),
            ("who,what,place\n1,1,1\n", "no column user and no column item and no column rank or score"),
            ("user,item\n1,1\n", "has no column rank or score"),
            ("user,user_id,item,rank\n1,1,1,1\n", "both 'user' and 'user_id' could be the user"),
            ("user,item,rank\n", "holds no recommendation"),
            ("", "cannot be read"),
            ("user,item,rank\n1,7,first\n", "1 rows have no finite rank .e.g. that of user '1' and item '7'"),
            ("user,item,score\n1,7,inf\n", "1 rows have no finite score"),
            ("user,item,rank\n,7,1\n", "1 rows have no user"),
            ("user,item,rank\nu1,7,1\nu1,7,2\n", "1 recommendations are there twice .e.g. item '7' for user 'u1'"),
            ("user,item,rank\nu1,7,3\nu1,8,3\n", "1 ranks are there twice in a list .e.g. rank 3 of user 'u1'"),
        ],
    )
    def test_mistakes(self, tmp_path, text, message):
        (tmp_path / "lists.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            read_recommendations(tmp_path / "lists.csv")

    def test_decimal_tokens(self, tmp_path):
        self.TABLE.assign(user=[1.0, 1.0, 2.0]).to_parquet(tmp_path / "lists.parquet")
        with pytest.raises(DataError, match=r"column 'user' holds decimal numbers \(e.g. 1.0\)"):
            read_recommendations(tmp_path / "lists.parquet")

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(DataError, match="read from .parquet, .csv, .tsv, not from '.json'"):
            read_recommendations(tmp_path / "lists.json")
        with pytest.raises(DataError, match="no such file of recommendations"):
            read_recommendations(tmp_path / "lists.csv")
        (tmp_path / "lists.parquet").write_bytes(b"no parquet")
        with pytest.raises(DataError, match="lists.parquet cannot be read"):
            read_recommendations(tmp_path / "lists.parquet")


class TestRefused:
    def test_tokens_of_another_dataset(self, folder, tmp_path, lists):
        rows = {u: [i.removeprefix("i") for i in items] for u, items in lists.perfect().items()}
        with pytest.raises(DataError, match=r"60 of 60 items are not in dataset 'tiny' \(e.g. '\d+'\); write the tok"):
            imported(written(tmp_path / "lists.tsv", rows), folder, tmp_path)
        rows = {u.removeprefix("u"): items for u, items in lists.perfect().items()}
        with pytest.raises(DataError, match="40 of 40 users are not in dataset 'tiny'"):
            imported(written(tmp_path / "lists.tsv", rows), folder, tmp_path)

    def test_no_list_of_a_test_user(self, tmp_path, tiny_dataset, folder):
        more = tiny_dataset(tmp_path / "more", n_items=60)
        with (more / "tiny" / "tiny.inter").open("a") as file:
            file.write("single\ti1\t5\t880000000\n")
        with pytest.raises(DataError, match="holds no list for any of the 40 test users"):
            imported(written(tmp_path / "lists.tsv", {"single": ["i1"]}), more, tmp_path)

    def test_nothing_that_may_be_recommended(self, folder, tmp_path, lists):
        rows = {u: lists.known[u] for u in lists.users}
        with pytest.raises(
            DataError, match="Other, loo-full, full: the lists hold none of the items left after masking"
        ):
            imported(written(tmp_path / "lists.tsv", rows), folder, tmp_path)

    def test_a_protocol_that_does_not_rank(self, folder, tmp_path, lists):
        path = written(tmp_path / "lists.tsv", lists.perfect())
        with pytest.raises(ConfigError, match="'ctr-labeled' is evaluated by RecBole itself"):
            changes = {"metrics": ["AUC"], "valid_metric": "AUC", "secondary_tasks": {}}
            imported(path, folder, tmp_path, protocol="ctr-labeled", **changes)
