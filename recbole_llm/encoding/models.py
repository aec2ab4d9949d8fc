"""Models on this machine: sentence-transformers, and CLIP's two towers. Imported when the first row is encoded."""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_llm.encoding.encoder import Content, Encoder
from recbole_llm.encoding.find import Model, find_package
from recbole_llm.encoding.sources import upright
from recbole_llm.errors import ConfigError


class SentenceEncoder(Encoder):
    """Any model of sentence-transformers, on this machine: on the GPU in half precision where there is one.

    The same batches give the same bytes on the same machine and thread count.
    """

    def __init__(self, model: Model) -> None:
        find_package("sentence_transformers")
        if not (model.folder / "modules.json").is_file() and not model.config:
            raise ConfigError(f"{model.folder} holds no model: neither modules.json nor config.json is there")
        self._model = model
        self.identity = {
            "encoder": model.name,
            "revision": model.revision,
            "pooling": _pooling(model.folder),
            "preprocessing": "white space collapsed, cut at the model's own length",
            "precision": _precision(),
        }

    @functools.cached_property
    def _loaded(self):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are on disk: never ask the network
        import torch
        from sentence_transformers import SentenceTransformer

        device = _device()
        model = SentenceTransformer(str(self._model.folder), device=device).eval()
        return model if device == "cpu" else model.to(getattr(torch, _precision()))

    def encode(self, contents: Sequence[Content]) -> np.ndarray:
        rows = self._loaded.encode(
            list(contents), batch_size=len(contents), show_progress_bar=False, convert_to_tensor=True
        )
        return rows.float().cpu().numpy()

    def count_tokens(self, texts: Sequence[str]) -> int:
        tokenizer, most = self._loaded.tokenizer, self._loaded.max_seq_length or 10**9
        return sum(min(len(ids), most) for ids in tokenizer(list(texts))["input_ids"])


class ClipEncoder(Encoder):
    """One tower of a CLIP model of transformers; rows have length 1 in the space that both towers share.

    Radford et al. 2021, https://arxiv.org/abs/2103.00020.

    Args:
        tower: "image" or "text".
    """

    def __init__(self, model: Model, tower: str) -> None:
        find_package("transformers", "vision")
        if tower == "image":
            find_package("PIL", "vision")
        self._model, self._tower = model, tower
        how = {
            "image": "turned as the camera says, RGB on white, resized and normalised by the model's own processor",
            "text": "white space collapsed, cut at the model's own length",
        }
        self.identity = {
            "encoder": model.name,
            "revision": model.revision,
            "pooling": f"{tower} tower, projected, L2-normalised",
            "preprocessing": how[tower],
            "precision": _precision(),
        }

    @functools.cached_property
    def _loaded(self):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # its progress bars and hints would break ours
        logging.disable_progress_bar()
        folder = str(self._model.folder)
        model = CLIPModel.from_pretrained(folder).eval().to(_device(), getattr(torch, _precision()))
        tower = CLIPImageProcessor if self._tower == "image" else AutoTokenizer
        return model, tower.from_pretrained(folder)

    def encode(self, contents: Sequence[Content]) -> np.ndarray:
        import torch

        model, processor = self._loaded
        with torch.inference_mode():
            if self._tower == "image":
                # one at a time: a batch of photographs in full size would fill the memory
                each = [processor([upright(path)], return_tensors="pt")["pixel_values"] for path in contents]
                pixels = torch.cat(each)
                rows = model.get_image_features(pixel_values=pixels.to(model.device, model.dtype))
            else:
                words = processor(list(contents), padding=True, truncation=True, return_tensors="pt").to(model.device)
                rows = model.get_text_features(**words)
            rows = getattr(rows, "pooler_output", rows).float()  # a tensor, or an output around it, by version
            return torch.nn.functional.normalize(rows, dim=-1).cpu().numpy()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def _precision() -> str:
    """float32 on the CPU; on a GPU bfloat16 where it has that, else float16. Asks torch only where there is a GPU."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "float32"
    import torch

    if not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _pooling(folder: Path) -> str:
    """How a sentence-transformers model makes one vector of many, from its files: "mean, L2-normalised"."""
    modules = folder / "modules.json"
    if not modules.is_file():
        return "mean"  # what the library puts on top of a plain transformer
    names, found = json.loads(modules.read_text(encoding="utf-8")), "unknown"
    for module in names:
        kind, config = module["type"].rpartition(".")[2], folder / module["path"] / "config.json"
        if kind == "Pooling" and config.is_file():
            settings = json.loads(config.read_text(encoding="utf-8"))
            modes = [
                key.removeprefix("pooling_mode_").removesuffix("_tokens") for key, on in settings.items() if on is True
            ]
            found = settings.get("pooling_mode") or "+".join(m for m in modes if not m.startswith("include")) or found
    normalised = any(module["type"].endswith("Normalize") for module in names)
    return f"{found}, L2-normalised" if normalised else found
