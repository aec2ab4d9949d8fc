"""``recbole-llm encode``: from columns, lines and images to feature files; broken off and begun again."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from encoding_fakes import Counting, embedding_of, endpoint
from PIL import Image

from recbole_llm.cli.dispatch import main
from recbole_llm.data.feature_file import read_feature
from recbole_llm.encoding import choose
from recbole_llm.encoding.endpoint import EndpointEncoder

ITEMS = "item_id:token\ttitle:token_seq\tgenres:token_seq\n1\tToy Story\tComedy\n2\tHeat\tCrime\n3\t\t\n"
INTER = "user_id:token\titem_id:token\n" + "".join(f"u{k}\t{item}\n" for k, item in enumerate("1112234"))
USERS = "user_id:token\tage:token\nu0\t24\nu1\t53\n"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A dataset of its own in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    for suffix, content in (("item", ITEMS), ("inter", INTER), ("user", USERS)):
        (folder / f"shop.{suffix}").write_text(content)
    return folder


@pytest.fixture
def encoder(monkeypatch):
    """Stands in for the model."""
    counting = Counting()
    monkeypatch.setattr(choose, "make_encoder", lambda options, kind, about_users: counting)
    return counting


def encode(*arguments) -> int:
    return main(["encode", "--dataset", "shop", "--quiet", *map(str, arguments)])


def test_columns(shop, encoder, capsys):
    assert encode("--feature", "text", "--from", "title,genres") == 0
    tokens, rows, metadata = read_feature(shop / "shop.text.safetensors")
    assert tokens == ["1", "2"] and rows.dtype == np.float16
    np.testing.assert_allclose(rows[0], embedding_of("Toy Story. Comedy"), atol=1e-3)
    assert metadata["encoder"] == "counting" and metadata["id_field"] == "item_id" and "text_sha256" in metadata
    shown = capsys.readouterr().out
    assert "text: 2 encoded, 0 from the store; 2/4 items, 50.0%, 71.4% of interactions" in shown


def test_a_second_run_encodes_what_has_changed(shop, encoder, capsys):
    encode("--feature", "text", "--from", "title,genres")
    before = (shop / "shop.text.safetensors").read_bytes()
    encode("--feature", "text", "--from", "title,genres")
    assert (shop / "shop.text.safetensors").read_bytes() == before and len(encoder.batches) == 1
    (shop / "shop.item").write_text(ITEMS.replace("Heat", "Ronin"))
    encode("--feature", "text", "--from", "title,genres")
    assert encoder.batches[1:] == [["Ronin. Crime"]]
    assert "1 encoded, 1 from the store" in capsys.readouterr().out


def test_lines_of_several_features_and_of_users(shop, encoder):
    rows = [{"user_id": "u0", "taste": "noir", "mood": ""}, {"user_id": "u9", "taste": "", "mood": "dark"}]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode("--feature", "taste,mood", "--texts", "texts.jsonl", "--float32", "--out", "out") == 0
    tokens, rows, metadata = read_feature(Path("out/shop.mood.safetensors"))
    assert tokens == ["u9"] and rows.dtype == np.float32 and metadata["id_field"] == "user_id"
    assert read_feature(Path("out/shop.taste.safetensors"))[0] == ["u0"]


def test_user_columns(shop, encoder):
    assert encode("--feature", "age", "--side", "user", "--template", "aged {age}") == 0
    assert read_feature(shop / "shop.age.safetensors")[0] == ["u0", "u1"]


def test_columns_of_users_are_about_users_whatever_they_are_called(shop, monkeypatch):
    (shop / "shop.user").write_text("uid:token\tbio:token\nu0\tsecret\n")
    sent = []
    monkeypatch.setattr(EndpointEncoder, "encode", lambda self, contents: sent.append(contents))
    elsewhere = ["--encoder", "m", "--api-base", "https://api.example.com/v1"]
    assert encode("--feature", "bio", "--side", "user", "--from", "bio", *elsewhere) == 2
    assert encode("--feature", "bio", "--side", "user", "--from", "bio", *elsewhere, "--allow-upload") == 2
    assert sent == []  # the second one: the interactions know no uid, which is seen before anything is sent


def test_fields_that_nobody_filled_are_left_out(shop, encoder):
    rows = [{"item_id": "1", "content": "x", "theme": ""}, {"item_id": "2", "content": "y", "theme": ""}]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode("--texts", "texts.jsonl") == 0 and encode("--texts", "texts.jsonl", "--feature", "theme") == 2
    assert [path.name for path in shop.glob("*.safetensors")] == ["shop.content.safetensors"]


def test_a_dataset_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text('{"item_id": "1", "a": "x"}\n')
    assert main(["encode", "--dataset", "shopp", "--texts", "texts.jsonl"]) == 2
    assert "there is no folder dataset/shopp" in capsys.readouterr().err


def test_images_and_broken_ones(shop, encoder, capsys):
    folder = Path("posters")
    folder.mkdir()
    for token in "12":
        Image.new("RGB", (8, 8), (int(token) * 90, 0, 0)).save(folder / f"{token}.png")
    (folder / "3.jpg").write_bytes(b"\xff\xd8 cut off")
    assert encode("--feature", "poster", "--images", folder) == 0
    tokens, _, metadata = read_feature(shop / "shop.poster.safetensors")
    assert tokens == ["1", "2"] and "image_sha256" in metadata
    assert "1 images cannot be read and have no row (3: " in capsys.readouterr().out
    assert encode("--feature", "poster", "--images", folder) == 0 and len(encoder.batches) == 1


def test_dry_run(shop, encoder, capsys):
    assert encode("--feature", "text", "--from", "title,genres", "--dry-run", "--price", "2000000") == 0
    assert {path.name for path in shop.iterdir()} == {"shop.item", "shop.inter", "shop.user"}
    line = capsys.readouterr().out
    # 17 and 11 characters are 5 and 3 tokens by the rule of thumb
    assert line.startswith("text: 2 rows, 2 distinct, 2 to encode, 8 tokens, about 16.0000 USD, about 0 s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "where do the texts of shop come from? Say --texts, --from, --template or --images"),
        (["--from", "title"], "--from, --template and --images make one feature; name it with --feature, not ''"),
        (["--from", "title", "--feature", "a,b"], "name it with --feature, not 'a,b'"),
        (["--from", "titel", "--feature", "a"], "no column 'titel' to make a text of; choose from: title, genres"),
        (["--from", "title", "--feature", "a", "--batch-size", "0"], "--batch-size must be at least 1, not 0"),
        (["--texts", "absent.jsonl"], "absent.jsonl: no such text file"),
        (["--images", "absent", "--feature", "a"], "absent is no folder"),
        (["--from", "title", "--feature", "a", "--encoder", "./absent"], "there is no folder ./absent"),
        (["--from", "title", "--feature", "a", "--api-base", "nowhere"], "'nowhere' is no address"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_code_2(shop, arguments, message, capsys):
    assert encode(*arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and message in shown and shown.count("\n") == 1


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_file_of_an_unbroken_run(tmp_path, monkeypatch):
    """The model is an endpoint of this machine, so that a process begins to encode within a second."""
    rows = [{"item_id": f"i{k}", "descr": f"text {k} " + "word " * (k % 9)} for k in range(400)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rng = random.Random(7)
    with endpoint() as server:
        program = "import sys; from recbole_llm.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "encode", "--dataset", "shop", "--texts", "texts.jsonl", "--quiet"]
        command += ["--encoder", "m", "--api-base", server.base, "--batch-size", "4", "--requests", "2", "--out"]
        assert subprocess.run([*command, "whole"], cwd=tmp_path, check=False).returncode == 0
        asked = sum(server.texts.values())
        assert asked == 400
        server.texts.clear()
        server.delay_s = 0.25
        kills, broken = 0, 0
        store = tmp_path / "broken" / ".encoded.sqlite"
        while kills < 20:
            process = subprocess.Popen([*command, "broken"], cwd=tmp_path, stdout=subprocess.DEVNULL)
            begun = server.texts.total()
            while server.texts.total() == begun and process.poll() is None:  # it encodes
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.4))
            assert process.poll() is None, "it ended before it could be killed; give it more to do"
            process.kill()
            process.wait()
            kills += 1
            broken += not (tmp_path / "broken" / "shop.descr.safetensors").exists()
        assert store.is_file() and broken == 20
        server.delay_s = 0.0
        assert subprocess.run([*command, "broken"], cwd=tmp_path, check=False).returncode == 0
    whole, again = (tmp_path / name / "shop.descr.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == again.read_bytes()
    # a kill loses the two requests in flight, four texts each, and nothing that was answered before
    assert server.texts.total() <= 400 + kills * 2 * 4
    assert os.listdir(tmp_path / "broken").count("shop.descr.safetensors") == 1
