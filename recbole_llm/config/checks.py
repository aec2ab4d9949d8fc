"""Refuses unknown keys and values of the wrong type or range, each with one sentence."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from recbole_llm.config.locate import recbole_dir
from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir
from recbole_llm.registry import did_you_mean

# not in any YAML, yet meant for the user
_OWN_KEYS = {"model", "dataset", "config_files", "extra"}
# blocks whose entries are fixed
_BLOCKS = {
    "eval_args": ("split", "group_by", "order", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
    "phases": ("hot_above", "cold_from", "phase_rows", "valid_share"),
    "impressions": ("valid_share", "test_share"),
}
_CHOICES = {
    "evaluator": ("recbole_llm", "recbole"),
    "placebo": ("none", "shuffle", "popularity"),
    "candidate_items": ("all", "cold"),
}
# whole numbers and their least value; other numbers may be fractions
_WHOLE_NUMBERS = {
    "epochs": 0, "train_batch_size": 1, "eval_batch_size": 1, "eval_step": 0, "stopping_step": 0, "seed": 0,
    "split_seed": 0, "candidate_seed": 0, "n_candidates": 1, "min_user_inter": 0, "MAX_ITEM_LIST_LENGTH": 1,
    "hidden_size": 1, "embedding_size": 1, "inner_size": 1, "n_layers": 0, "n_heads": 1, "metric_decimal_place": 0,
    "num_negatives": 0, "worker": 0, "update_epochs": 0, "update_batches": 1,
}  # fmt: skip
_LEAST = {"learning_rate": 0.0, "weight_decay": 0.0, "update_learning_rate": 0.0}
_PHASED_KEYS = ("update_epochs", "update_batches", "update_learning_rate", "choice_metric")
_SHOWN_METRIC = re.compile("auc|mrr|ndcg@(5|10)|pooled/g?auc", re.IGNORECASE)
_PHASED_METRIC = re.compile("(cold|warm-[abc])/(auc|f1)", re.IGNORECASE)


@cache
def known_keys() -> frozenset[str]:
    """Every top-level key of RecBole's and the plugin's YAML files and of RecBole's argument lists."""
    recbole = recbole_dir()
    files = [f for f in recbole.glob("properties/**/*.yaml") if f.name not in ("url.yaml", "kg_url.yaml")]
    own = properties_dir()
    files += [
        own / "overall.yaml",
        *own.glob("model/*.yaml"),
        *own.glob("dataset/*.yaml"),
        *own.glob("protocol/*.yaml"),
    ]
    keys = set(_OWN_KEYS)
    for file in files:
        keys |= set(re.findall(r"^([A-Za-z_][\w-]*)\s*:", _text(file), flags=re.MULTILINE))
    keys |= set(re.findall(r"'(\w+)'", _text(recbole / "utils" / "argument_list.py")))
    return frozenset(keys)


def check_keys(layers: Iterable[tuple[str, Mapping[str, Any]]], allowed: set[str]) -> None:
    """Raise ConfigError for a key that is known nowhere, naming the nearest one.

    Args:
        layers: the user's settings, each with the name of its layer for the message.
        allowed: further keys, from ``extra:`` blocks.
    """
    known = known_keys() | allowed
    for where, settings in layers:
        for key, value in settings.items():
            if key not in known:
                hint = did_you_mean(key, sorted(known))
                raise ConfigError(f"unknown key '{key}' ({where}){hint or '; a key of your own goes below extra:'}")
            inner_keys = _BLOCKS.get(key, ())
            for inner in value if inner_keys and isinstance(value, Mapping) else ():
                if inner not in inner_keys:
                    hint = did_you_mean(str(inner), list(inner_keys)) or f"; it has {', '.join(inner_keys)}"
                    raise ConfigError(f"unknown key '{inner}' in {key} ({where}){hint}")


def check_values(settings: Mapping[str, Any], defaults: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Raise ConfigError for a value whose type or range cannot be meant.

    Args:
        settings: the merged settings.
        defaults: the same without what the user set; the type of a default tells the type of a setting.
        sources: setting -> layer, for the message.
    """
    for key, value in settings.items():
        default = defaults.get(key)
        origin = sources.get(key) or next((s for k, s in sources.items() if k.startswith(f"{key}.")), "default")
        problem = _problem(key, value, default)
        if problem:
            raise ConfigError(f"{key} must be {problem}, got {value!r} ({origin})")


def _problem(key: str, value: Any, default: Any) -> str | None:
    """What a value should have been, or None where it is right."""
    if key in _CHOICES:
        return None if value in _CHOICES[key] else " or ".join(f"'{choice}'" for choice in _CHOICES[key])
    if value is None:
        return None if default is None else f"set, like its default {default!r}" if _is_scalar(default) else None
    if key in _WHOLE_NUMBERS:
        least = _WHOLE_NUMBERS[key]
        right = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return None if right else f"a whole number of at least {least}"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, (int, float)):
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right:
            return "a number"
        return f"at least {_LEAST[key]}" if value < _LEAST.get(key, value) else None
    if isinstance(default, Mapping) and not isinstance(value, (Mapping, str)):
        return "a block of 'key: value' lines"
    return None


def _is_scalar(default: Any) -> bool:
    return isinstance(default, (bool, int, float))


def check_metrics(settings: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise ConfigError for a metric or cut-off that does not exist, or a ``valid_metric`` that nothing computes.

    Args:
        settings: merged settings with ``metrics`` and ``topk`` as lists.
        known: RecBole's metric names, in lower case.
    """
    if settings.get("phases"):
        if missing := [key for key in _PHASED_KEYS if settings.get(key) is None]:
            raise ConfigError(f"phases need {missing[0]} too; use protocol: emerg-phases, which sets them")
        if [str(metric).lower() for metric in settings["metrics"]] != ["auc"]:
            raise ConfigError(f"metrics under phases are [AUC], with which F1 comes, not {settings['metrics']}")
        for key, names in (("valid_metric", [settings["valid_metric"]]), ("choice_metric", settings["choice_metric"])):
            wrong = [name for name in names if not _PHASED_METRIC.fullmatch(str(name))]
            if wrong:
                raise ConfigError(f"{key} under phases names AUC or F1 of a phase, as in cold/AUC, not '{wrong[0]}'")
        return
    if settings.get("impressions"):
        if settings["evaluator"] != "recbole_llm":
            raise ConfigError("impressions are evaluated by the plugin: set evaluator to recbole_llm")
        if not _SHOWN_METRIC.fullmatch(str(settings["valid_metric"])):
            raise ConfigError(
                "valid_metric under impressions is AUC, MRR, NDCG@5 or NDCG@10, by impression, pooled/AUC or "
                f"pooled/GAUC, not '{settings['valid_metric']}'"
            )
        return
    if not settings["topk"] or not all(type(k) is int and k >= 1 for k in settings["topk"]):
        raise ConfigError(f"topk must be whole numbers of at least 1, as in [5, 10], got {settings['topk']}")
    for metric in settings["metrics"]:
        if str(metric).lower() not in known:
            hint = did_you_mean(str(metric), list(known)) or f"; there are {', '.join(sorted(known))}"
            raise ConfigError(f"unknown metric '{metric}'{hint}")
    name, at, cutoff = str(settings["valid_metric"]).partition("@")
    computed = {str(metric).lower() for metric in settings["metrics"]}
    if name.lower() not in computed:
        raise ConfigError(f"valid_metric '{settings['valid_metric']}' is not among metrics; add '{name}' to metrics")
    if at and cutoff not in {str(k) for k in settings["topk"]}:
        raise ConfigError(
            f"valid_metric '{settings['valid_metric']}' needs {cutoff} in topk, which is {settings['topk']}"
        )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
