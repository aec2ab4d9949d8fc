"""From a configuration to what is asked about: titles, training histories, a trained model's candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llm.augment import subjects as make
from recbole_llm.augment.prompts import Prompt
from recbole_llm.data.atomic import read_atomic
from recbole_llm.errors import ConfigError, FeatureError
from recbole_llm.experiment import load
from recbole_llm.experiment.audit import TITLES, item_titles
from recbole_llm.experiment.data import build_data, named_features
from recbole_llm.serving.recommender import Recommender


@dataclass(frozen=True)
class Gathered:
    """What is asked about.

    Attributes:
        kind, prompt. facts: for the metadata; with users: protocol and fingerprint of the split of the histories.
        rows: of ``<dataset>.item``. titles: item -> title. histories: user -> training items, oldest first. users: user
            -> columns of ``<dataset>.user``, where the prompt names any.
        candidates: user -> items that a model puts on top, none of them from the training history.
        data: where the dataset's features are; None for items.
    """

    kind: str
    prompt: Prompt
    facts: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    id_field: str
    title: str
    titles: Mapping[str, str]
    histories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    users: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: Any = None

    @cached_property
    def subjects(self) -> list[make.Subject]:
        """The questions, in the order of the file or of the users' first interactions."""
        if self.kind == "item_attributes":
            return list(make.item_subjects(self.rows, self.id_field, self.prompt, self.title))
        if self.kind == "user_profile":
            return list(make.profile_subjects(self.histories, self.titles, self.users, self.prompt))
        return list(make.edge_subjects(self.histories, self.candidates, self.titles, self.users, self.prompt))

    def feature_rows(self, name: str) -> dict[str, np.ndarray]:
        """Item -> embedding of length 1.

        Raises:
            ConfigError: when the dataset offers no such feature. FeatureError: when it is one of users.
        """
        feature = named_features(self.data.config, self.data, [name])[name]
        if feature.side != "item":
            raise FeatureError(f"feature '{name}' is one of {feature.side}s; name a text feature of items")
        tokens = self.data.base.field2id_token[self.data.base.iid_field]
        unit = feature.matrix / np.maximum(np.linalg.norm(feature.matrix, axis=1, keepdims=True), 1e-12)
        return {str(tokens[k]): unit[k] for k in np.flatnonzero(feature.present)}


def gather(
    config,
    kind: str,
    prompt: Prompt,
    title: str = "",
    checkpoint: Path | None = None,
    n_candidates: int = 10,
    protocol: str | None = None,
) -> Gathered:
    """Read what the kind needs.

    Args:
        config: from ``build_config``; with a checkpoint, the run's own split counts. protocol: that was asked for.
        title: column of titles; "": one that is called so.
    Raises:
        RecBoleLLMError: for a dataset, column or checkpoint that is not there.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    frame = read_atomic(path)
    title = title or next((name for name in TITLES if name in frame), "")
    facts: dict[str, Any] = {"kind": kind, "dataset": config["dataset"]}
    id_field = "item_id" if "item_id" in frame else frame.columns[0]
    common = {"rows": frame.to_dict("records"), "id_field": id_field, "title": title}
    if kind == "item_attributes":
        return Gathered(kind, prompt, facts, titles={}, **common)
    titles = item_titles(path, title)
    if set(prompt.placeholders) - {"history", "candidates"}:
        common["users"] = _user_rows(path.with_suffix(".user"))
    if checkpoint is None:
        data = build_data(config)
        facts |= {"protocol": config["protocol"], "split": data.split.fingerprint}
        histories = make.training_histories(data)
        return Gathered(kind, prompt, facts, titles=titles, histories=histories, data=data, **common)
    model, data = load(checkpoint)
    for name, wanted in (("dataset", config["dataset"]), ("protocol", protocol)):
        if wanted not in (None, data.config[name]):
            raise ConfigError(
                f"{checkpoint.name} is a run on {name} {data.config[name]}, not {wanted}; name another run"
            )
    found = _candidates(model, data, n_candidates)
    facts |= {"protocol": data.config["protocol"], "split": data.split.fingerprint}
    facts |= {"candidates_of": checkpoint.name, "candidates": n_candidates}
    histories = make.training_histories(data)
    return Gathered(kind, prompt, facts, titles=titles, histories=histories, candidates=found, data=data, **common)


def _user_rows(path: Path) -> dict[str, dict[str, Any]]:
    frame = read_atomic(path)
    id_field = "user_id" if "user_id" in frame else frame.columns[0]
    return {str(row[id_field]): row for row in frame.to_dict("records")}


def _candidates(model, data, n: int) -> dict[str, list[str]]:
    """User -> the n best items that his training history has not, for the users who have one and get two or more."""
    recommender = Recommender(model, data, history="train")
    users = recommender.user_tokens[np.unique(data.user_ids[data.split.train])]
    best = recommender.recommend(users.tolist(), topk=n)
    found = {user: own.tolist() for user, own in best.groupby("user", sort=False)["item"]}
    return {user: items for user, items in found.items() if len(items) > 1}
