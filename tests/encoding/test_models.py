"""Finding models, and CLIP's two towers, on a tiny random one that transformers writes."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from recbole_llm.cli import main
from recbole_llm.data.feature_file import read_feature
from recbole_llm.encoding.choose import Options, make_encoder
from recbole_llm.encoding.find import find_model
from recbole_llm.errors import ConfigError, MissingDependencyError

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs 'recbole-llm[vision]'")


class TestFind:
    def test_a_folder_is_known_by_its_files(self, tmp_path):
        folder = tmp_path / "mine"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "bert"}')
        first = find_model(str(folder))
        assert (first.name, first.is_clip) == ("mine", False) and first.revision.startswith("sha256:")
        (folder / "weights.bin").write_bytes(b"other")
        find_model.cache_clear()
        assert find_model(str(folder)).revision != first.revision

    def test_a_model_in_the_cache_of_the_hub(self, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        home, commit = tmp_path / "models--org--net", "0123456789abcdef0123456789abcdef01234567"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        (home / "snapshots" / commit).mkdir(parents=True)
        (home / "snapshots" / commit / "config.json").write_text('{"model_type": "clip"}')
        found = find_model("org/net")
        assert (found.name, found.revision, found.is_clip) == ("org/net", commit, True)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("org/absent", "'org/absent' is neither packaged .* let it be fetched with --download"),
            ("./absent", "there is no folder ./absent"),
        ],
    )
    def test_what_is_not_there(self, name, message, tmp_path, monkeypatch):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ConfigError, match=message):
            find_model(name)

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(ConfigError, match="holds no model"):
            make_encoder(Options(str(tmp_path)), "text", about_users=False)

    def test_a_missing_package_names_its_extra(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openai" else find(name))
        with pytest.raises(MissingDependencyError, match=r"pip install 'recbole-llm\[llm\]'"):
            make_encoder(Options("m", "http://localhost:1/v1"), "text", about_users=False).encode(["a"])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP of 8 dimensions with random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    folder.mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", *"lower", "l</w>", "o</w>", "w</w>", "e</w>", "r</w>", "lo", "low</w>"]
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(words))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n")
    CLIPTokenizer.from_pretrained(folder, unk_token="<|endoftext|>", model_max_length=16).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = size | ends | {"vocab_size": len(vocabulary), "max_position_embeddings": 16}
    vision = size | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """The same motif as colour and palette, upright and turned with a note of it, and another one."""
    rng = np.random.default_rng(0)
    motif = Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8))
    motif.save(tmp_path / "rgb.png")
    motif.convert("RGBA").save(tmp_path / "rgba.png")  # opaque
    turned = Image.Exif()
    turned[0x0112] = 6  # shown by a quarter turn to the right
    motif.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(rng.integers(0, 256, (48, 40), dtype=np.uint8)).save(tmp_path / "grey.png")
    return {path.stem: path for path in tmp_path.glob("*.png")}


@pytest.mark.slow
class TestClip:
    def test_images(self, clip, pictures):
        encoder = make_encoder(Options(str(clip)), "image", about_users=False)
        rows = dict(zip(pictures, encoder.encode(list(pictures.values())), strict=True))
        assert all(row.shape == (8,) and row.dtype == np.float32 for row in rows.values())
        np.testing.assert_allclose([np.linalg.norm(row) for row in rows.values()], 1, rtol=1e-5)
        for same in ("rgba", "turned"):
            np.testing.assert_allclose(rows[same], rows["rgb"], atol=1e-5)
        assert np.abs(rows["grey"] - rows["rgb"]).max() > 1e-3

    def test_texts_equal_transformers_own(self, clip):
        import torch
        from transformers import AutoTokenizer, CLIPModel

        texts = ["low", "lower low", "r " * 50]  # the last one is cut
        encoder = make_encoder(Options(str(clip)), "text", about_users=False)
        model, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
        for text, row in zip(texts, encoder.encode(texts), strict=True):
            words = tokenizer([text], truncation=True, max_length=16, return_tensors="pt")
            with torch.no_grad():
                pooled = model.text_model(**words).pooler_output
                expected = torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)[0]
            np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)

    def test_from_a_folder_of_images_to_a_feature_file(self, clip, pictures, tmp_path, capsys):
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        out = tmp_path / "out"
        arguments = ["--dataset", "shop", "--feature", "poster", "--images", str(tmp_path), "--encoder", str(clip)]
        assert main(["encode", *arguments, "--out", str(out), "--quiet"]) == 0
        tokens, rows, metadata = read_feature(out / "shop.poster.safetensors")
        assert set(tokens) == set(pictures) and rows.shape == (4, 8) and metadata["pooling"].startswith("image tower")
        shown = capsys.readouterr().out
        assert "poster: 4 encoded" in shown and "1 images cannot be read and have no row (broken: no image" in shown

    def test_the_towers_are_two_encoders(self, clip):
        image, text = (make_encoder(Options(str(clip)), kind, about_users=False).identity for kind in ("image", "text"))
        assert image["encoder"] == text["encoder"] == "tiny-clip" and image["pooling"] != text["pooling"]

    def test_a_text_encoder_reads_no_images(self):
        with pytest.raises(ConfigError, match="reads no images; name a CLIP model"):
            make_encoder(Options(), "image", about_users=False)
