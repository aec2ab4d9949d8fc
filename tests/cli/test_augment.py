"""``recbole-llm augment``: items, users and edges, from a small shop and an endpoint of this machine."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from encoding_fakes import endpoint
from synthetic import SMALL_SASREC, cycle_settings, write_cycle

from recbole_llm.augment.prompts import read_prompt
from recbole_llm.cli.dispatch import main
from recbole_llm.data.derived import load_edges
from recbole_llm.experiment import load, run
from recbole_llm.experiment.data import build_data, named_features

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with endpoint() as state:
        yield state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The cycle dataset with titles."""
    folder = write_cycle(tmp_path_factory.mktemp("augment"))
    rows = "".join(f"i{k}\tProduct {k}\n" for k in range(24))
    (folder / "cycle" / "cycle.item").write_text("item_id:token\ttitle:token_seq\n" + rows)
    return folder


def augment(folder, *arguments) -> int:
    words = ["augment", "--dataset", "cycle", "--quiet", *map(str, arguments), f"--data_path={folder}"]
    return main(words)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_items(folder, server, tmp_path, capsys):
    empty = {"theme": "", "style": "", "mood": ""}
    server.chat = lambda messages: json.dumps({"content": messages[1]["content"].split("\n")[0], **empty})
    arguments = ["--kind", "item_attributes", "--model", "m", "--api-base", server.base, "--out", tmp_path]
    assert augment(folder, *arguments) == 0
    found = lines(tmp_path / "cycle.item_attributes.jsonl")
    assert found == [{"item_id": f"i{k}", "content": f"Item: Product {k}", **empty} for k in range(24)]
    facts = json.loads((tmp_path / "cycle.item_attributes.meta.json").read_text())
    assert facts["model"] == "m" and facts["prompt_version"] == 1 and facts["counts"]["answered"] == 24
    assert "split" not in facts  # nothing of it hangs on who used what
    assert augment(folder, *arguments) == 0 and len(server.bodies) == 24  # all from the ledger
    assert "24 asked about: 24 answered; 0 requests, 0.0000 USD now" in capsys.readouterr().out
    assert (
        main(
            [
                "encode",
                "--dataset",
                "cycle",
                "--texts",
                str(tmp_path / "cycle.item_attributes.jsonl"),
                "--dry-run",
                "--feature",
                "content",
                "--out",
                str(tmp_path),
                "--api-base",
                server.base,
            ]
        )
        == 0
    )


def test_profiles_are_of_training_rows_alone(folder, server, tmp_path):
    server.chat = lambda messages: json.dumps({"profile": "a taste"})
    arguments = ["--kind", "user_profile", "--model", "m", "--api-base", server.base, "--out", tmp_path]
    assert augment(folder, *arguments, "--protocol=loo-full") == 0
    found = lines(tmp_path / "cycle.user_profile.jsonl")
    assert len(found) == 30 and found[0] == {"user_id": "u0", "profile": "a taste"}
    facts = json.loads((tmp_path / "cycle.user_profile.meta.json").read_text())
    from recbole_llm.config import build_config

    data = build_data(build_config("Pop", "cycle", (), {"data_path": str(folder), "show_progress": False}, ()))
    assert facts["split"] == data.split.fingerprint and facts["protocol"] == "loo-full"
    items = data.base.field2id_token["item_id"]
    users = data.base.field2id_token["user_id"]
    trained = {}
    for row in data.split.train:
        trained.setdefault(users[data.user_ids[row]], set()).add(f"- Product {items[data.item_ids[row]][1:]}")
    asked = [set(body["messages"][1]["content"].split("\n")) for body in server.bodies]
    for own in trained.values():  # what is shown of a history is in some user's training rows, whole
        assert any({line for line in text if line.startswith("- ")} <= own for text in asked)
    assert max(len([line for line in text if line.startswith("- ")]) for text in asked) <= max(
        map(len, trained.values())
    )


def test_profiles_become_a_feature_of_their_split_alone(folder, server, tmp_path, capsys):
    server.chat = lambda messages: json.dumps({"profile": f"a taste for {len(messages[1]['content'])}"})
    home, there = folder / "cycle", ["--model", "m", "--api-base", server.base]
    assert augment(folder, "--kind", "user_profile", *there, "--out", home, "--protocol=loo-full") == 0
    texts = home / "cycle.user_profile.jsonl"
    encode = ["encode", "--dataset", "cycle", "--texts", str(texts), "--feature", "profile", "--out", str(home)]
    encode += ["--encoder", "e", "--api-base", server.base, "--quiet", f"--data-path={folder}"]
    assert main(encode) == 0
    assert "profile: made from the training rows of loo-full, and loads under this split" in capsys.readouterr().out
    run = ["--model=Pop", "--dataset=cycle", f"--data_path={folder}", f"--run_dir={tmp_path}", "--use_gpu=false"]
    run += ["--user_features=[profile]", "--features={profile: {side: user}}"]
    assert main([*run, "--protocol=loo-full"]) == 0
    assert "profile: 30/30 users, 100.0 %, 100.0 % of interactions" in capsys.readouterr().err
    assert main([*run, "--protocol=rs-full"]) == 2
    said = capsys.readouterr().err
    assert "was made from the training rows of another split (protocol loo-full" in said
    assert "augment --protocol=rs-full" in said and "Traceback" not in said
    # the texts changed by hand: whose rows they know is no longer sure
    texts.write_text(texts.read_text().replace("a taste", "no taste"))
    assert main(encode) == 2 and "has changed since" in capsys.readouterr().err
    # from elsewhere: it loads, and says what nobody knows
    (home / "cycle.user_profile.meta.json").unlink()
    assert main(encode) == 0 and "nothing says which rows its texts know" in capsys.readouterr().out
    assert main([*run, "--protocol=rs-full"]) == 0
    assert "its file does not say which split it was made from" in capsys.readouterr().err


class TestEdges:
    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, folder):
        settings = cycle_settings(folder) | SMALL_SASREC | {"epochs": 1, "state": "WARNING"}
        return run("SASRecAll", "cycle", settings | {"run_dir": str(folder / "runs")}).run_folder

    def test_ids_outside_the_candidates_are_refused_and_counted(self, folder, server, tmp_path, checkpoint, capsys):
        def say(messages: list[dict]) -> str:
            if "Product 3\n" in messages[1]["content"].split("Candidates")[0] and len(messages) < 6:
                return json.dumps({"liked": 1, "disliked": 99})
            return json.dumps({"liked": 1, "disliked": 99 if len(messages) >= 6 else 3})

        server.chat = say
        arguments = ["--kind", "edges", "--checkpoint", checkpoint, "--candidates", "4", "--model", "m"]
        assert augment(folder, *arguments, "--api-base", server.base, "--out", tmp_path) == 0
        facts = json.loads((tmp_path / "cycle.edges.meta.json").read_text())
        found = lines(tmp_path / "cycle.edges.jsonl")
        assert facts["counts"]["outside"] > 0 and facts["counts"]["answered"] == len(found) > 0
        assert facts["counts"]["outside"] + len(found) == 30 and facts["candidates_of"] == Path(checkpoint).name
        assert all(edge["liked"] != edge["disliked"] for edge in found)
        assert f"{facts['counts']['outside']} outside" in capsys.readouterr().out
        # a user whose second answer was right counts among the refused replies too
        assert facts["counts"]["outside_replies"] > facts["counts"]["outside"]

    def test_a_run_on_something_else(self, folder, tmp_path, checkpoint, capsys):
        arguments = [
            "--kind",
            "edges",
            "--checkpoint",
            checkpoint,
            "--model",
            "m",
            "--api-base",
            "http://localhost:9/v1",
        ]
        assert augment(folder, *arguments, "--protocol=rs-full") == 2
        assert "is a run on protocol loo-full, not rs-full" in capsys.readouterr().err

    def test_numbers_may_be_written_as_fractions(self, folder, server, tmp_path, checkpoint):
        server.chat = lambda messages: '{"liked": 1.0, "disliked": 2.0}'
        arguments = ["--kind", "edges", "--checkpoint", checkpoint, "--candidates", "4", "--model", "m"]
        assert augment(folder, *arguments, "--api-base", server.base, "--out", tmp_path) == 0
        assert len(lines(tmp_path / "cycle.edges.jsonl")) == 30

    def test_by_text_alone(self, folder, tmp_path, checkpoint):
        arguments = ["--kind", "edges", "--checkpoint", checkpoint, "--candidates", "4"]
        assert augment(folder, *arguments, "--proposer", "embedding", "--feature", "absent", "--out", tmp_path) == 2
        arguments += ["--proposer", "embedding", "--feature", "content"]
        assert augment(folder, *arguments, "--out", tmp_path) == 0
        facts = json.loads((tmp_path / "cycle.edges.meta.json").read_text())
        found = lines(tmp_path / "cycle.edges.jsonl")
        assert facts["proposer"] == "embedding of content" and 20 < len(found) <= 30
        data = load(checkpoint)[1]
        assert facts["split"] == data.split.fingerprint
        edges = load_edges(tmp_path / "cycle.edges.jsonl", data)
        text = named_features(data.config, data, ["content"])["content"].matrix
        rows = data.split.train
        trained = set(zip(data.user_ids[rows].tolist(), data.item_ids[rows].tolist(), strict=True))
        unit = text / np.linalg.norm(text, axis=1, keepdims=True).clip(1e-9)
        for user, liked, disliked in edges.tolist():
            history = np.mean([unit[i] for u, i in trained if u == user], 0)
            assert unit[liked] @ history > unit[disliked] @ history
            assert (user, liked) not in trained and (user, disliked) not in trained
        from recbole_llm.augment.subjects import embedding_edges

        rows = {"a": np.array([1.0, 0.0]), "b": np.array([0.8, 0.6]), "c": np.array([0.0, 1.0])}
        rows |= {"d": rows["c"]}
        histories, candidates = (
            {"u": ["a"], "v": [], "w": ["a"]},
            {"u": ["c", "b", "x"], "v": ["b", "c"], "w": ["c", "d"]},
        )
        edges = list(embedding_edges(histories, candidates, rows))  # equal texts do not tell
        assert edges == [{"user_id": "u", "liked": "b", "disliked": "c"}]


def test_a_budget_ends_it_and_the_ledger_goes_on(folder, server, tmp_path, capsys):
    server.chat = lambda messages: json.dumps({"profile": "a taste"})
    arguments = [
        "--kind",
        "user_profile",
        "--model",
        "m",
        "--api-base",
        server.base,
        "--out",
        tmp_path,
        "--requests",
        "1",
    ]
    prices = ["--price-in", "1000", "--price-out", "1000"]
    assert augment(folder, *arguments, *prices, "--budget", "1.5") == 1
    first = len(server.bodies)
    assert 0 < first < 30 and "with a larger one goes on from here" in capsys.readouterr().err
    offline = ["--kind", "user_profile", "--model", "m", "--out", tmp_path, "--replay"]
    assert augment(folder, *offline) == 1 and len(server.bodies) == first  # some are missing
    assert not (tmp_path / "cycle.user_profile.jsonl").exists()
    assert (
        first <= len(lines(tmp_path / "cycle.user_profile.partial.jsonl")) < 30
    )  # users of one history share an answer
    assert augment(folder, *arguments, *prices, "--budget", "100") == 0
    assert len(lines(tmp_path / "cycle.user_profile.jsonl")) == 30
    assert len(server.bodies) > first and set(server.texts.values()) == {1}
    whole = (tmp_path / "cycle.user_profile.jsonl").read_bytes()
    assert augment(folder, *offline) == 0 and (tmp_path / "cycle.user_profile.jsonl").read_bytes() == whole
    assert augment(folder, *offline, "--ledger", tmp_path / "typo") == 2 and not (tmp_path / "typo").exists()
    assert augment(folder, *arguments, "--limit", "3") == 0
    assert (tmp_path / "cycle.user_profile.jsonl").read_bytes() == whole


def test_an_endpoint_that_fails_leaves_what_has_come_back(folder, server, tmp_path, capsys):
    server.chat = lambda messages: json.dumps({"profile": "a taste"})
    server.faults = [None, 400, None, 401]
    arguments = ["--kind", "user_profile", "--model", "m", "--api-base", server.base, "--out", tmp_path]
    assert augment(folder, *arguments, "--requests", "1") == 2
    assert "does not answer" in capsys.readouterr().err
    counts = json.loads((tmp_path / "cycle.user_profile.partial.meta.json").read_text())["counts"]
    assert counts["refused"] == 1 and counts["answered"] >= 2 and counts["unasked"] > 0
    assert augment(folder, *arguments) == 0 and len(lines(tmp_path / "cycle.user_profile.jsonl")) == 30


def test_columns_of_a_user_are_sent_where_a_template_names_them(folder, server, tmp_path):
    (folder / "cycle" / "cycle.user").write_text(
        "user_id:token\tage:token\tname:token\n" + "".join(f"u{k}\t{20 + k}\tName{k}\n" for k in range(30))
    )
    prompt = read_prompt("user_profile")
    mine = {"version": 2, "system": prompt.system, "user": "Aged {age}:\n{history}", "schema": dict(prompt.schema)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    server.chat = lambda messages: json.dumps({"profile": "a taste"})
    arguments = ["--kind", "user_profile", "--model", "m", "--api-base", server.base, "--out", tmp_path, "--limit", "2"]
    assert augment(folder, *arguments, "--prompt", tmp_path / "mine.yaml") == 0
    asked = [body["messages"][1]["content"] for body in server.bodies]
    assert sorted(text.split("\n")[0] for text in asked) == ["Aged 20:", "Aged 21:"] and "Name" not in "".join(asked)
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(mine | {"user": "{agee}"}))
    assert augment(folder, *arguments, "--prompt", tmp_path / "wrong.yaml") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "user_profile"], "name the language model with --model"),
        (["--kind", "edges", "--model", "m", "--api-base", "http://localhost/v1"], "edges need candidates"),
        (["--kind", "user_profile", "--proposer", "embedding"], "--proposer embedding proposes edges"),
        (["--kind", "user_profile", "--model", "m", "--api-base", "https://api.example.com/v1"], "--allow-upload"),
        (["--kind", "item_attributes", "--model", "m", "--api-base", "nowhere"], "is no address"),
        (["--kind", "item_attributes", "--requests", "0"], "--requests must be at least 1"),
        (["--kind", "item_attributes", "--model", "m", "--api-base", "http://localhost/v1", "--prompt", "x"], "prompt"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_code_2(folder, arguments, message, capsys):
    assert augment(folder, *arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and message in shown and shown.count("\n") == 1
