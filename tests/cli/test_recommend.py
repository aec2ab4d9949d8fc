"""``recbole-llm recommend``: files in every format, lists to read, mistakes in one sentence."""

import json

import pandas as pd
import pytest
from synthetic import cycle_settings, write_cycle

import recbole_llm
from recbole_llm.cli.dispatch import main
from recbole_llm.data.feature_file import read_feature
from recbole_llm.experiment import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The cycle dataset; the last item has no title."""
    folder = write_cycle(tmp_path_factory.mktemp("recommend"))
    rows = "".join(f"i{k}\tDas {k}. Stück, größer\n" for k in range(23))
    (folder / "cycle" / "cycle.item").write_text("item_id:token\ttitle:token_seq\n" + rows, encoding="utf-8")
    return folder


def trained(folder, model: str, **settings):
    place = folder / "runs" / model
    quiet = {"run_dir": str(place), "state": "WARNING", "show_progress": False, "epochs": 2}
    run(model, "cycle", cycle_settings(folder) | {"features": {}} | quiet | settings)
    return next(place.iterdir())


@pytest.fixture(scope="module")
def markov(folder):
    return trained(folder, "Markov")


@pytest.fixture(scope="module")
def bpr(folder):
    return trained(folder, "BPR", embedding_size=8)


def recommend(home, *arguments) -> int:
    return main(["recommend", "--checkpoint", str(home), "--quiet", *map(str, arguments)])


@pytest.fixture(scope="module")
def expected(markov):
    frame = recbole_llm.recommend(markov, topk=3)
    assert len(frame) == 90 and list(frame) == ["user", "rank", "item", "score", "title"]
    assert set(frame["title"]) == {f"Das {k}. Stück, größer" for k in range(23)} | {None}
    assert (frame["title"].isna() == (frame["item"] == "i23")).all()
    return frame


class TestFiles:
    def written(self, markov, tmp_path, ending):
        path = tmp_path / "new" / f"lists{ending}"
        assert recommend(markov, "--topk", 3, "--out", path) == 0
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        return path

    def test_parquet(self, markov, expected, tmp_path):
        found = pd.read_parquet(self.written(markov, tmp_path, ".parquet"))
        pd.testing.assert_frame_equal(found, expected)

    def test_csv(self, markov, expected, tmp_path):
        found = pd.read_csv(self.written(markov, tmp_path, ".CSV"), dtype={"score": "float32"})
        pd.testing.assert_frame_equal(found.astype({"title": object}).where(found.notna(), None), expected)

    @pytest.mark.parametrize("ending", [".json", ".jsonl"])
    def test_json(self, markov, expected, tmp_path, ending):
        text = self.written(markov, tmp_path, ending).read_text(encoding="utf-8")
        lists = json.loads(text) if ending == ".json" else [json.loads(line) for line in text.splitlines()]
        assert [one["user"] for one in lists] == list(dict.fromkeys(expected["user"])) and "größer" in text
        rows = [
            (one["user"], rank, item["item"], item["score"], item["title"])
            for one in lists
            for rank, item in enumerate(one["items"], start=1)
        ]
        found = pd.DataFrame(rows, columns=list(expected)).astype({"score": "float32"})
        pd.testing.assert_frame_equal(found, expected)

    def test_a_failure_leaves_the_old_file(self, markov, tmp_path, monkeypatch):
        path = tmp_path / "lists.csv"
        path.write_text("old")

        def broken(*args, **kwargs):
            raise OSError("disk full")

        monkeypatch.setattr(pd.DataFrame, "to_csv", broken)
        with pytest.raises(OSError, match="disk full"):
            recommend(markov, "--out", path)
        assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1

    def test_what_it_says(self, markov, tmp_path, capsys):
        assert recommend(markov, "--out", tmp_path / "a.csv") == 0  # of 24 items every user has 4 left
        out, err = capsys.readouterr()
        assert out.splitlines() == [
            "120 recommendations to 30 users, history: all",
            f"wrote {tmp_path / 'a.csv'}",
        ]
        assert err.splitlines()[-1] == "30 of 30 users have fewer than 20 items left"


def test_the_next_items_of_the_cycle(markov, capsys):
    """User u has used items u, ..., u + 19 of 24; with all of it known, u + 20 comes next."""
    assert recommend(markov, "--users", "u7, u2", "--topk", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("user")] == ["user u7", "user u2"]
    assert lines[1].split()[:2] == ["1", "i3"] and lines[1].endswith("Das 3. Stück, größer")
    assert lines[5].split()[:2] == ["1", "i22"] and len(lines) == 7
    assert recommend(markov, "--users", "u7", "--topk", 1, "--history", "known") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] == "i2"  # what the test row holds


def test_users_of_a_file(markov, bpr, tmp_path, capsys):
    users = tmp_path / "users.txt"
    users.write_text("u4\n\n u1 \r\nu4\n", encoding="utf-8")
    assert recommend(bpr / "best.pt", "--users-file", users, "--users", "u9", "--out", tmp_path / "a.csv") == 0
    assert list(dict.fromkeys(pd.read_csv(tmp_path / "a.csv")["user"])) == ["u9", "u4", "u1"]
    assert "wrote" in capsys.readouterr().out


def test_embeddings_alone(bpr, tmp_path, capsys):
    paths = tmp_path / "cycle.u.safetensors", tmp_path / "cycle.i.safetensors"
    assert recommend(bpr, "--user-embeddings", paths[0], "--item-embeddings", paths[1]) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {path}" for path in paths]
    assert [len(read_feature(path)[0]) for path in paths] == [30, 24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users", "u3,u333"], "dataset 'cycle' has no user 'u333'; did you mean"),
        (["--users", "Anna"], "dataset 'cycle' has no user 'Anna'; its users are called like 'u0'"),
        (["--users", " , "], "--users and --users-file name no user"),
        (["--users-file", "nowhere.txt"], "nowhere.txt cannot be read (No such file or directory); name a file with"),
        (["--out", "a.xlsx"], "a.xlsx: recommendations are written as .parquet, .csv, .json, .jsonl, not as '.xlsx'"),
        (["--out", "a.csv", "--topk", "0"], "--topk must be at least 1, not 0"),
        ([], "name the file with --out, or up to 10 users with --users"),
        (["--users", ",".join(f"u{k}" for k in range(11))], "name the file with --out, or up to 10 users"),
        (["--user-embeddings", "a.npy"], "a.npy: embeddings are written as <dataset>.<feature>.safetensors"),
        (["--item-embeddings", "a.b.safetensors"], "Markov has no vectors of users and items"),
        (["--users", "u1", "--title", "label"], "cycle.item has no column 'label'; name it with --title"),
    ],
)
def test_mistakes(markov, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert recommend(markov, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("error: ") and message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"), [("", "is not a run folder"), ("nowhere", "is not a run folder"), ("last.pt", "name best.pt")]
)
def test_wrong_checkpoints(tmp_path, capsys, name, message):
    (tmp_path / "last.pt").touch()
    assert recommend(tmp_path / name, "--users", "u1") == 2
    assert message in capsys.readouterr().err


def test_a_broken_checkpoint(folder, markov, tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes((markov / "config.yaml").read_bytes())
    (tmp_path / "best.pt").write_bytes((markov / "best.pt").read_bytes()[:100])
    assert recommend(tmp_path, "--users", "u1") == 2
    assert "best.pt" in capsys.readouterr().err
