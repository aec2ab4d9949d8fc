"""Recommendations of any other system, scored under the split and protocol of a comparison.

The lists come from a file; the kernel masks, restricts to candidates and measures them as it does a model's scores.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_llm.comparison.lists import read_recommendations
from recbole_llm.comparison.record import OK, Record, per_user_file
from recbole_llm.config import build_config, config_hash, resolved
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.evaluation.kernel import EvalResult, evaluate
from recbole_llm.evaluation.metrics import ACCURACY
from recbole_llm.evaluation.slices import slice_metrics
from recbole_llm.evaluation.task import EvalTask
from recbole_llm.experiment.data import build_data, eval_data
from recbole_llm.experiment.record import RunResult, code_hash, commit, machine, versions
from recbole_llm.experiment.run import write_per_user

IMPORTED = "imported"  # stands in a record where the model's name does
NO_SEED = -1  # lists have no seed of ours, and none may pair them with a run
_FEW = 0.05  # with a greater share of unknown tokens the file belongs to another dataset, or holds internal ids

Say = Callable[[str], None]


@dataclass(frozen=True)
class Lists:
    """Recommendations to test users by internal ids, sorted by row.

    Attributes:
        rows: index among the test users. [m] int64, ascending.
        items: item ids; those from ``n_items`` on stand for items that the dataset lacks. [m] int64.
        values: what the items are ordered by, higher is better. [m] float64.
        n_unknown: most items in one list that the dataset lacks.
    """

    rows: np.ndarray
    items: np.ndarray
    values: np.ndarray
    n_unknown: int


def import_recommendations(
    path: str | Path,
    *,
    label: str,
    dataset: str,
    protocol: str,
    settings: Mapping[str, Any] | None = None,
    out: str | Path,
    say: Say | None = None,
) -> Record:
    """Score the lists of a file as if a model had made them.

    An item that the dataset lacks holds its place in the list as a miss; known history is left out where the protocol
    masks it, and so is what is no candidate where it ranks candidates. Places that stay empty are misses.

    Args:
        path: see :func:`~recbole_llm.comparison.lists.read_recommendations`.
        label: row of the table.
        dataset, protocol: as for a run; the protocol must rank items.
        settings: further settings of the comparison, such as ``data_path``, ``metrics`` and ``topk``.
        out: folder of the comparison; the per-user metrics are written there.
        say: called with a line for whatever in the file was left out or is missing.
    Returns:
        A record with status "ok", model "imported" and seed -1. Its result has no stages, no validation metrics and no
        cost but the seconds of the test; ``config`` is that of the Pop baseline with the model's name replaced;
        ``data_hash`` is the sha256 of the file.
    Raises:
        DataError: the file cannot be read, or its lists cannot be told apart or do not belong to the dataset.
        ConfigError: the protocol does not rank items (which AUC belongs to: lists have none).
    """
    say, path, out = say or (lambda line: None), Path(path), Path(out)
    where = f"{label}, {protocol}"
    config = build_config("Pop", dataset, (), {**(settings or {}), "protocol": protocol}, ())
    if config["evaluator"] != "recbole_llm":
        raise ConfigError(
            f"protocol '{config['protocol']}' is evaluated by RecBole itself, which cannot score lists; choose a "
            "protocol that ranks items"
        )
    if config["phases"]:
        raise ConfigError(
            f"protocol '{config['protocol']}' ranks no items, so it cannot score lists; choose one that does"
        )
    table = read_recommendations(path)
    data = build_data(config)
    start = time.perf_counter()
    test = eval_data(config, data, "test")
    lists = _to_ids(table, path, where, data, test.tasks[0].user_ids, say)
    results = {}
    for task in test.tasks:
        _check(task, lists, max(test.topk), f"{where}, {task.name}", say)
        results[task.name] = _evaluate(task, lists, test.metrics, test.topk, test.item_counts)
    seconds = time.perf_counter() - start
    first = test.tasks[0]
    slices = slice_metrics(first, results[first.name].top_items, test.item_counts, test.metrics, test.topk)
    with path.open("rb") as file:
        file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    result = RunResult(
        model=IMPORTED,
        dataset=config["dataset"],
        protocol=config["protocol"],
        seed=NO_SEED,
        config=resolved(config) | {"model": IMPORTED, "seed": NO_SEED},
        config_hash=config_hash(config),
        code_hash=code_hash(__name__),
        commit=commit(),
        versions=versions(),
        machine=machine("cpu"),
        split=data.split.fingerprint,
        features={},
        valid={},
        test={
            ("" if k == 0 else f"{name}/") + metric: value
            for k, (name, found) in enumerate(results.items())
            for metric, value in found.metrics.items()
        },
        test_reads=1,
        stages=[],
        seconds={"train": 0.0, "test": seconds},
        peak_bytes=0,
        n_parameters=0,
        slices=slices,
        run_folder=f"{re.sub(r'[^0-9A-Za-z_.]+', '-', label)}-{dataset}-{protocol}-{file_hash[:8]}",
    )
    record = Record(
        label=label,
        model=IMPORTED,
        dataset=result.dataset,
        protocol=result.protocol,
        seed=NO_SEED,
        status=OK,
        config_hash=result.config_hash,
        code_hash=result.code_hash,
        data_hash=file_hash,
        result=result,
    )
    write_per_user(per_user_file(out, record), data, results)
    return record


def _to_ids(table: pd.DataFrame, path: Path, where: str, data, test_users: np.ndarray, say: Say) -> Lists:
    """Tokens to ids and rows of the test users; says what is left out."""
    base, n_items = data.base, data.n_items
    users, items = (
        _known(table[name], name, base.field2token_id[field], path, data.config["dataset"])
        for name, field in (("user", base.uid_field), ("item", base.iid_field))
    )
    tested = np.isin(users, test_users)
    for who, left_out in (("not in the dataset", users == 0), ("no test users", (users > 0) & ~tested)):
        tokens = table["user"][left_out].unique()
        if len(tokens):
            say(f"{where}: {len(tokens)} users are {who} (e.g. {tokens[0]!r}); their lists are ignored")
    if not tested.any():
        raise DataError(
            f"{path} holds no list for any of the {len(test_users)} test users; export the lists of the test users"
        )
    without = test_users[~np.isin(test_users, users)]
    if len(without):
        example = str(base.field2id_token[base.uid_field][without[0]])
        say(f"{where}: {len(without)} of {len(test_users)} test users have no list (e.g. {example!r}): all misses")
    found = pd.DataFrame({"row": np.searchsorted(test_users, users), "item": items, "value": table["value"]})[tested]
    unknown = found["item"] == 0
    if unknown.any():
        example = table["item"][unknown.index[unknown]].iloc[0]
        say(f"{where}: {unknown.sum()} recommendations are of items that the dataset lacks (e.g. {example!r}): misses")
    place = found[unknown].groupby("row").cumcount()
    found.loc[unknown, "item"] = n_items + place
    found = found.sort_values("row", kind="stable")
    columns = (found[name].to_numpy() for name in ("row", "item", "value"))
    return Lists(*columns, n_unknown=int(place.max()) + 1 if len(place) else 0)


def _known(tokens: pd.Series, what: str, id_of: Mapping[str, int], path: Path, dataset: str) -> np.ndarray:
    """Ids of tokens, 0 for those that the dataset lacks. [m] int64."""
    distinct = tokens.unique()
    unknown = [token for token in distinct if not id_of.get(token)]  # 0 is [PAD]
    if len(unknown) > _FEW * len(distinct):
        raise DataError(
            f"{path}: {len(unknown)} of {len(distinct)} {what}s are not in dataset '{dataset}' (e.g. {unknown[0]!r}); "
            "write the tokens of its files, not internal ids"
        )
    return tokens.map(id_of).fillna(0).to_numpy(np.int64)


def _check(task: EvalTask, lists: Lists, k: int, where: str, say: Say) -> None:
    """Say what of the lists the task does not rank, and how many users it leaves with too short a list."""
    n = task.n_items
    known = lists.items < n
    keys = lists.rows * n + lists.items
    masked_keys = np.repeat(np.arange(len(task)), np.diff(task.mask_indptr)) * n + task.mask_items
    masked = known & np.isin(keys, masked_keys)
    usable = known & ~masked
    if task.candidates is None:
        rankable = n - 1 - np.diff(task.mask_indptr)
    else:
        candidate_keys = np.arange(len(task))[:, None] * n + task.candidates
        allowed = (task.candidates > 0) & ~np.isin(candidate_keys, masked_keys)
        usable &= np.isin(keys, candidate_keys[allowed])
        rankable = allowed.sum(axis=1)
    if not usable.any():
        what = "candidates" if task.candidates is not None else "items left after masking known history"
        raise DataError(f"{where}: the lists hold none of the {what}; export longer lists")
    if masked.any():
        n_users = len(np.unique(lists.rows[masked]))
        say(f"{where}: {masked.sum()} recommendations to {n_users} users are known history, which is masked: left out")
    short = np.bincount(lists.rows[usable], minlength=len(task)) < np.minimum(k, rankable)
    if short.any():
        say(
            f"{where}: {short.sum()} of {len(task)} test users have fewer than {k} items to rank: the rest are misses "
            "(longer lists would fill them)"
        )


def _evaluate(task: EvalTask, lists: Lists, metrics: Sequence[str], topk: Sequence[int], item_counts) -> EvalResult:
    """The kernel's result; unknown items take their places in accuracy metrics, and are no items in the others."""

    def measured(task: EvalTask, names: Sequence[str]) -> EvalResult:
        score = _scorer(lists, task.n_items)
        return evaluate(task, score, metrics=names, topk=topk, item_counts=item_counts)

    if not lists.n_unknown:
        return measured(task, metrics)
    accuracy = [name for name in metrics if name.lower() in ACCURACY]
    others = [name for name in metrics if name.lower() not in ACCURACY]
    in_place = measured(replace(task, n_items=task.n_items + lists.n_unknown), accuracy)
    without = measured(task, others)
    return replace(
        in_place,
        metrics=in_place.metrics | without.metrics,
        per_user=in_place.per_user | without.per_user,
        top_items=np.where(in_place.top_items < task.n_items, in_place.top_items, 0),  # an empty place
    )


def _scorer(lists: Lists, n_items: int) -> Callable[[np.ndarray], torch.Tensor]:
    """Function from consecutive rows to their scores, -inf for what is not listed. [b] -> [b, n_items] float64."""

    def score(rows: np.ndarray) -> torch.Tensor:
        scores = torch.full((len(rows), n_items), -torch.inf, dtype=torch.float64)
        part = slice(*np.searchsorted(lists.rows, [rows[0], rows[-1] + 1]))
        here = lists.items[part] < n_items
        columns = (lists.rows[part] - rows[0], lists.items[part], lists.values[part])
        row, item, value = (torch.from_numpy(column[here]) for column in columns)
        scores[row, item] = value
        return scores

    return score
