"""Which class a model name stands for, this project's and RecBole's.

Names are looked up in `MODELS` first and fall through to RecBole's built-in models. Importing this module imports
neither torch nor RecBole: listing names reads RecBole's source tree, resolving one imports that model alone (RecBole's
own ``get_model`` imports lightgbm on the way to saying that a name is unknown).
"""

import difflib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recbole_llm import compat
from recbole_llm.errors import ConfigError, MissingDependencyError


@dataclass(frozen=True)
class ModelSpec:
    """A model of this project.

    Attributes:
        model: ``module:class``, imported when the model is first used.
        summary: one line for ``--list``.
        loader: ``module:class`` of the training loader, for models that read whole histories; None takes RecBole's
            loader and, for sequential models, its one-row-a-prefix augmentation.
        default_protocol: file of properties/protocol/ used unless the model's YAML or the user names another.
        closed_form: whether it is solved in one pass, so that epochs and seeds do not matter.
        labelled: whether it learns from rows with labels, as RecBole's context-aware models do, where a protocol has
            them; other models are given the positive rows alone.
    """

    model: str
    summary: str
    loader: str | None = None
    default_protocol: str = "loo-full"
    closed_form: bool = False
    labelled: bool = False


# RecBole's models that fast_graph speeds up: the same model over our sparse products
FAST_GRAPH = {name: f"recbole_llm.model.general.fast_graph:{name}" for name in ("LightGCN", "SGL")}

_CHUNKS = "recbole_llm.data.chunks:ChunkLoader"
_PAIRS = "recbole_llm.data.pairs:PairLoader"

MODELS: dict[str, ModelSpec] = {
    "UR4RecMoE": ModelSpec(
        "recbole_llm.model.sequential.ur4rec_moe:UR4RecMoE",
        "SASRecAll with a mixture-of-experts retriever over text, visual and preference facets",
        loader=_CHUNKS,
    ),
    "AGLRec": ModelSpec(
        "recbole_llm.model.general.aglrec:AGLRec",
        "LightGCN over identity and language embeddings; scores cold items by their text",
        loader=_PAIRS,
        default_protocol="rs-full",
    ),
    "EmerGLLMRec": ModelSpec(
        "recbole_llm.model.general.emerg:EmerGLLMRec",
        "LLMRec with a feature graph of its own for every item, from its content; scores cold items",
        loader=_PAIRS,
        default_protocol="rs-full",
        labelled=True,
    ),
    "LLMRec": ModelSpec(
        "recbole_llm.model.general.llmrec:LLMRec",
        "light graph convolution with side information of items and users, and edges proposed by texts",
        loader=_PAIRS,
        default_protocol="rs-full",
        labelled=True,
    ),
    "LLMKGNews": ModelSpec(
        "recbole_llm.model.sequential.llmkg_news:LLMKGNews",
        "articles by identity, text and knowledge graph, users by what they clicked; learns from what was shown",
        loader="recbole_llm.data.impression_loader:ImpressionLoader",
        labelled=True,
    ),
    "SASRecAll": ModelSpec(
        "recbole_llm.model.sequential.sasrec_all:SASRecAll",
        "SASRec trained at all positions in one pass; the backbone of UR4RecMoE",
        loader=_CHUNKS,
    ),
    "Markov": ModelSpec(
        "recbole_llm.model.sequential.markov:Markov",
        "decayed item-to-item transitions within a window",
        loader=_CHUNKS,
        closed_form=True,
    ),
    "EASEMarkov": ModelSpec(
        "recbole_llm.model.sequential.ease_markov:EASEMarkov",
        "sum of the z-scored EASE and Markov scores",
        loader=_CHUNKS,
        closed_form=True,
    ),
    "RP3beta": ModelSpec(
        "recbole_llm.model.general.rp3beta:RP3beta",
        "random walk of three steps over the interactions, popular items held back",
        default_protocol="rs-full",
        closed_form=True,
    ),
    "TextEASE": ModelSpec(
        "recbole_llm.model.general.text_ease:TextEASE",
        "EASE whose weights are drawn to the likeness of texts",
        default_protocol="rs-full",
        closed_form=True,
    ),
    "AlphaRec": ModelSpec(
        "recbole_llm.model.general.alpha_rec:AlphaRec",
        "light graph convolution over an MLP of frozen text, no ids",
        default_protocol="rs-full",
    ),
    "ContentKNN": ModelSpec(
        "recbole_llm.model.general.content_knn:ContentKNN",
        "cosine of an item's text and the mean text of the user's items; scores cold items",
        default_protocol="rs-full",
        closed_form=True,
    ),
    "RidgeText": ModelSpec(
        "recbole_llm.model.general.ridge_text:RidgeText",
        "factors of the interactions, predicted from text by ridge regression; scores cold items",
        default_protocol="rs-full",
        closed_form=True,
    ),
}

# family folder of RecBole -> what --list calls it
FAMILIES = {
    "general_recommender": "general",
    "sequential_recommender": "sequential",
    "context_aware_recommender": "context-aware",
    "knowledge_aware_recommender": "knowledge",
    "exlib_recommender": "decision tree",
}


@cache
def recbole_models() -> dict[str, tuple[str, str]]:
    """RecBole's built-in models, found in its source tree without importing it.

    Returns:
        class name -> (family folder, module name), in alphabetical order.

    Raises:
        MissingDependencyError: if RecBole is not installed.
    """
    compat.require_recbole()
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.submodule_search_locations, "require_recbole saw an installed RecBole"
    root = Path(next(iter(spec.submodule_search_locations))) / "model"
    found = {}
    for family in FAMILIES:
        for file in (root / family).glob("[!_]*.py"):
            for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
                if name.lower() == file.stem:  # RecBole's rule: module is the class's name in lower case
                    found[name] = (family, f"recbole.model.{family}.{file.stem}")
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def nearest(name: str, known: Mapping[str, Any] | list[str], n: int = 3) -> list[str]:
    """Up to ``n`` of ``known`` that look most like ``name``, upper and lower case alike."""
    by_lower: dict[str, str] = {}
    for candidate in known:
        by_lower.setdefault(candidate.lower(), candidate)
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.6)]


def did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """``"; did you mean 'a' or 'b'?"``, or an empty string where nothing is near."""
    names = nearest(name, known)
    return "; did you mean " + " or ".join(f"'{n}'" for n in names) + "?" if names else ""


def model_spec(name: str) -> ModelSpec | None:
    """Entry of this project's table; None for RecBole's models."""
    return MODELS.get(name)


def modules_of(name: str, fast_graph: bool = False) -> list[str]:
    """Modules that the tables name for a model of this project; for RecBole's models those of ``fast_graph``."""
    spec = model_spec(name)
    paths = [FAST_GRAPH.get(name) if fast_graph else None] if spec is None else [spec.model, spec.loader]
    return [path.partition(":")[0] for path in paths if path]


def import_attribute(path: str) -> Any:
    """What ``module:attribute`` names, as in the table."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_model_name(name: str) -> None:
    """Raise ConfigError for a name that neither this project nor RecBole has, giving the nearest names of both."""
    if name not in MODELS and name not in recbole_models():
        hint = did_you_mean(name, [*MODELS, *recbole_models()]) or "; --list shows the names"
        raise ConfigError(f"unknown model '{name}'{hint}")


def resolve_model(name: str, fast_graph: bool = False) -> type:
    """Class of a model by its name: this project's first, then RecBole's.

    Args:
        fast_graph: RecBole's model with the sparse products of model/graph.py.
    Raises:
        ConfigError: if neither has the name, or fast_graph does not serve it.
        MissingDependencyError: if the model needs a package that is not installed.
    """
    check_model_name(name)
    if fast_graph and name not in FAST_GRAPH:
        raise ConfigError(f"fast_graph serves {' and '.join(FAST_GRAPH)}, not {name}; set fast_graph to false")
    if name in MODELS:
        path = MODELS[name].model
    elif fast_graph:
        compat.apply()
        path = FAST_GRAPH[name]
    else:
        compat.apply()
        path = f"{recbole_models()[name][1]}:{name}"
    try:
        return import_attribute(path)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "recbole_llm", "recbole"):
            raise
        raise MissingDependencyError(
            f"model '{name}' needs the package '{package}', which is not installed; run: pip install {package}"
        ) from error


def default_protocol(model_class: type) -> str:
    """Protocol of a model that neither its YAML nor the user sets one for."""
    if model_class.__name__ in MODELS:
        return MODELS[model_class.__name__].default_protocol
    return "ctr-labeled" if model_class.type.name in ("CONTEXT", "DECISIONTREE") else "loo-full"


def is_closed_form(model_class: type) -> bool:
    """Whether a model is solved in one pass, so that one seed tells everything."""
    spec = MODELS.get(model_class.__name__)
    return spec.closed_form if spec else model_class.type.name == "TRADITIONAL"
