"""What to compare: rows (models with settings), protocols, seeds. Read from YAML, checked before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from recbole_llm.config.checks import check_keys
from recbole_llm.config.merge import merge
from recbole_llm.errors import ConfigError
from recbole_llm.paths import properties_dir
from recbole_llm.registry import check_model_name, did_you_mean, model_spec

FIRST_SEED = 2020
# settings that say what is ranked for whom, and how it is judged: the same for all rows of a table
SHARED = frozenset(
    """
    protocol eval_args split_seed mask_history n_candidates candidate_seed secondary_tasks min_rating min_user_inter
    cold_items candidate_items evaluator metrics topk tail_ratio benchmark_filename threshold val_interval
    user_inter_num_interval item_inter_num_interval phases
    """.split()
)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        label: its name; the model's, where the file gives none.
        settings: as in a config file, over those of the plan.
        grid: setting -> values to choose from by validation, all combinations; chosen once, with the first seed, or
            once a split.
        seeds: how many; None: the plan's, or one for a closed-form model.
        search: of a row whose settings an earlier search has chosen, what records say of it: trials, failed, epochs,
            seconds, chosen (settings) and space (setting -> text). No key of a file.
    """

    label: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, list] = field(default_factory=dict)
    seeds: int | None = None
    search: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run: a row under one protocol with one seed.

    Attributes:
        choice_seed: seed of the run that chooses from the row's grid. chosen: what it chose, where that is known.
        search: see :class:`Row`.
    """

    label: str
    model: str
    dataset: str
    protocol: str
    seed: int
    choice_seed: int
    settings: Mapping[str, Any]
    grid: Mapping[str, list]
    chosen: Mapping[str, Any] | None = None
    search: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How a log line calls it."""
        return f"{self.label}, {self.protocol}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes:
        title, note: heading of the report, and a remark above its tables.
        seeds: runs a row, with the seeds first_seed, first_seed + 1, ...; the same ones for every row.
        reference: label that the others are tested against; the last row, where the file names none.
        tested: per-user metrics that are tested.
        split_per_seed: every seed also draws the split, and its validation chooses from the grids, so that a row's
            standard deviation is that of the draws too. Closed-form models then run with every seed.
        sensitivity: setting -> labels of the rows that are the reference with another value of it, for figures.
        settings: of every row, below the row's own. over: of every row, over the row's own and its grid.
    """

    dataset: str
    rows: tuple[Row, ...]
    protocols: tuple[str, ...] = ("loo-full",)
    seeds: int = 5
    first_seed: int = FIRST_SEED
    reference: str = ""
    tested: tuple[str, ...] = ("ndcg@10",)
    title: str = ""
    note: str = ""
    split_per_seed: bool = False
    sensitivity: Mapping[str, list[str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    over: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind, what in _TYPES:
            if not isinstance(getattr(self, name), kind) or isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be {what}, not {getattr(self, name)!r}")
        if not isinstance(self.split_per_seed, bool):
            raise ConfigError(f"split_per_seed must be true or false, not {self.split_per_seed!r}")
        if self.split_per_seed and "split_seed" in {**self.settings, **self.over}:
            raise ConfigError("under split_per_seed the seeds say which splits; leave out split_seed")
        if self.split_per_seed and (short := [row.label for row in self.rows if row.seeds is not None]):
            raise ConfigError(
                f"row {short[0]} has seeds of its own; leave them out: under split_per_seed all rows run on every split"
            )
        labels = [row.label for row in self.rows]
        if not labels:
            raise ConfigError("the comparison has no rows; list models under rows")
        twice = [label for k, label in enumerate(labels) if label in labels[:k]]
        if twice:
            raise ConfigError(f"two rows are called '{twice[0]}'; give one of them another label")
        check_keys([("settings", self.settings), ("the command line", self.over)], set())
        for row in self.rows:
            check_model_name(row.model)
            own = {**row.settings, **row.grid}
            check_keys([(f"row {row.label}", own)], set())
            if shared := sorted(SHARED & set(own)):
                raise ConfigError(
                    f"row {row.label} sets {shared[0]}, in which the rows of a table may not differ; put it under "
                    "settings of the comparison"
                )
        for name, value in [
            ("seeds", self.seeds),
            *(("seeds", row.seeds) for row in self.rows if row.seeds is not None),
        ]:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
        known = sorted(path.stem for path in (properties_dir() / "protocol").glob("*.yaml"))
        for protocol in self.protocols:
            if protocol not in known:
                hint = did_you_mean(protocol, known) or f"; choose from {', '.join(known)}"
                raise ConfigError(f"unknown protocol '{protocol}'{hint}")
        object.__setattr__(self, "tested", tuple(_tested(name) for name in self.tested))
        if not self.reference:
            object.__setattr__(self, "reference", labels[-1])
        elif self.reference not in labels:
            raise ConfigError(f"reference '{self.reference}' is no row{did_you_mean(self.reference, labels)}")

    def jobs(self) -> list[Job]:
        """All runs by seed, so that a comparison broken off has the same seeds of every row."""
        return sorted(self._jobs(), key=lambda job: job.seed)

    def _jobs(self) -> Iterator[Job]:
        for protocol in self.protocols:
            for row in self.rows:
                once = _closed_form(row.model) and not self.split_per_seed
                settings, _ = merge([("plan", self.settings), ("row", row.settings), ("over", self.over)])
                grid = {key: values for key, values in row.grid.items() if key not in self.over}
                for seed in range(self.first_seed, self.first_seed + (row.seeds or (1 if once else self.seeds))):
                    own, choice_seed = settings, self.first_seed
                    if self.split_per_seed:  # another split's validation rows may be test rows of this one
                        own, choice_seed = settings | {"split_seed": seed}, seed
                    yield Job(
                        row.label, row.model, self.dataset, protocol, seed, choice_seed, own, grid, search=row.search
                    )


# field of a Plan -> its type, and how to say so
_TYPES = [
    *((name, str, "a text") for name in ("dataset", "reference", "title", "note")),
    *((name, Mapping, "keys and values") for name in ("settings", "over")),
    ("first_seed", int, "a whole number"),
]


def _tested(name: object) -> str:
    """The metric's name as records have it.

    Raises:
        ConfigError: for what is no metric of a user at a cut-off; naming the nearest metric.
    """
    from recbole_llm.evaluation.metrics import ACCURACY

    known = [*ACCURACY, "auc", "averagepopularity", "novelty", "tailpercentage"]
    task, slash, metric = str(name).rpartition("/")
    base, _, k = metric.lower().partition("@")
    if base not in known or (base != "auc" and not k.isdigit()):
        hint = did_you_mean(base, known) if base not in known else "; give its cut-off, as in ndcg@10"
        raise ConfigError(f"tested: {name!r} is no metric of a user{hint or '; known are ' + ', '.join(known)}")
    return f"{task}{slash}{metric.lower()}"


def read_plan(path: str | Path) -> Plan:
    """Plan of a comparison's YAML file; a bare name is also looked up in properties/compare/.

    Raises:
        ConfigError: for a file that is missing or no YAML mapping, an unknown key, model or protocol.
    """
    content = read_yaml(path, "compare")
    rows = content.pop("rows", None) or []
    return make_plan(content, [_row(entry) for entry in _list(rows, "rows")], path)


def read_ablation(path: str | Path) -> Plan:
    """Plan of an ablation's YAML file: a base row and what is changed in it, one row a variant.

    ``base`` holds a row's keys; ``variants`` a list of rows whose settings lie over the base's; ``sensitivity`` maps a
    setting to other values of it, a row each.

    Raises:
        ConfigError: see :func:`read_plan`.
    """
    content = read_yaml(path, "ablation")
    if not isinstance(content.get("base"), Mapping):
        raise ConfigError(f"{path}: an ablation needs a base with model (and may have settings, label, grid)")
    base = _row(content.pop("base"))
    variants = []
    for entry in _list(content.pop("variants", None) or [], "variants"):
        if not isinstance(entry, Mapping) or "label" not in entry:
            raise ConfigError(f"{path}: a variant needs a label and settings, not {entry!r}")
        row = _row({"model": base.model, **entry})
        settings, _ = merge([("base", base.settings), ("variant", row.settings)])
        variants.append(Row(row.label, row.model, settings, row.grid or base.grid, row.seeds or base.seeds))
    values = content.pop("sensitivity", None) or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: sensitivity must map settings to lists of values, not {values!r}")
    labels: dict[str, list[str]] = {}
    for key, others in values.items():
        for value in _list(others, f"sensitivity.{key}"):
            labels.setdefault(str(key), []).append(f"{key}={value}")
            variants.append(Row(labels[key][-1], base.model, {**base.settings, key: value}, base.grid, base.seeds))
    if not variants:
        raise ConfigError(f"{path}: the ablation has no variants")
    if labels and content.get("reference", base.label) != base.label:
        raise ConfigError(f"{path}: with sensitivity the base is the reference; leave out reference")
    return make_plan({"reference": base.label, "sensitivity": labels, **content}, [*variants, base], path)


def make_plan(content: Mapping[str, Any], rows: Sequence[Row], where: str | Path) -> Plan:
    """Plan of the remaining keys of a file, or of the command line."""
    known = [f.name for f in fields(Plan) if f.name not in ("rows", "over")]
    _check_keys(content, known, str(where))
    if not content.get("dataset"):
        raise ConfigError(f"{where}: dataset is missing; name one, for example dataset: ml-100k")
    lists = {key: tuple(_list(content[key], key)) for key in ("protocols", "tested") if content.get(key)}
    return Plan(**{k: v for k, v in content.items() if v is not None} | lists | {"rows": tuple(rows)})


def read_yaml(path: str | Path, folder: str) -> dict[str, Any]:
    """A YAML mapping; a bare name is also looked up below properties/, in ``folder``."""
    found = Path(path)
    if not found.is_file():
        found = properties_dir() / folder / found.name
        found = found if found.suffix else found.with_suffix(".yaml")
    if not found.is_file():
        shipped = sorted(p.name for p in (properties_dir() / folder).glob("*.yaml"))
        raise ConfigError(f"there is no file {path}; shipped ones: {', '.join(shipped) or 'none'}")
    try:
        content = yaml.safe_load(found.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{found} is no valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{found} must hold keys and values, such as dataset: ml-100k")
    return content


def _row(entry: object) -> Row:
    if isinstance(entry, str):
        return Row(entry, entry)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
        raise ConfigError(f"a row is a model's name, or has the key model; this one has not: {entry!r}")
    _check_keys(entry, [f.name for f in fields(Row) if f.name != "search"], f"row {entry.get('label', entry['model'])}")
    for key in ("settings", "grid"):
        if not isinstance(entry.get(key) or {}, Mapping):
            raise ConfigError(f"row {entry.get('label', entry['model'])}: {key} must map settings to values")
    grid = {str(k): _list(v, f"grid.{k}") for k, v in (entry.get("grid") or {}).items()}
    label = str(entry.get("label") or entry["model"])
    return Row(label, entry["model"], dict(entry.get("settings") or {}), grid, entry.get("seeds"))


def _list(value: object, key: str) -> list:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} must be a list, not {value!r}")
    return list(value)


def _check_keys(content: Mapping, known: Sequence[str], where: str) -> None:
    unknown = [str(key) for key in content if key not in known]
    if unknown:
        hint = did_you_mean(unknown[0], list(known)) or f"; known are {', '.join(known)}"
        raise ConfigError(f"{where}: unknown key '{unknown[0]}'{hint}")


def _closed_form(model: str) -> bool:
    spec = model_spec(model)
    return spec.closed_form if spec else model in _RECBOLE_CLOSED_FORM


# RecBole's models that are solved, not trained; seeds do not change them
_RECBOLE_CLOSED_FORM = {"ADMMSLIM", "EASE", "ItemKNN", "NCEPLRec", "Pop", "SLIMElastic"}
