"""Embedding features of items and users: token-keyed files, memory-mapped, aligned with a dataset's internal ids.

On disk a row belongs to a token, because RecBole numbers the ids anew for every dataset it builds. ``open_feature``
opens the text or the binary form, ``FeatureTable.align`` brings the rows into the order of the dataset's ids, and
``load_features`` does both for the ``features:`` block of a configuration.
"""

import difflib
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recbole_llm.data.derived import check_split
from recbole_llm.data.feature_cache import open_text_feature
from recbole_llm.data.feature_file import read_feature, save_feature
from recbole_llm.errors import ConfigError, FeatureError, MissingFeatureError

__all__ = ["AlignedFeature", "FeatureTable", "load_features", "open_feature", "save_feature"]

PAD = "[PAD]"  # RecBole's token of id 0
MISSING_POLICIES = ("error", "zero", "mean", "learned")
SIDES = {"item": "items", "user": "users", "interaction": "interactions", "entity": "entities"}  # and their plurals
_SUFFIX = ".safetensors"
_SPEC_KEYS = ("file", "side", "missing", "id_field")
_BLOCK_ROWS = 4096  # rows converted at a time: bounds the memory beside the aligned matrix


@dataclass(frozen=True, eq=False)
class AlignedFeature:
    """A feature in the order of a dataset's internal ids.

    Attributes:
        name: name of the feature, ``content``.
        id_field: field whose ids number the rows.
        matrix: row i belongs to id i; row 0 ([PAD]) is zero. [n, F] float32.
        present: whether the file holds a row for the id; False for [PAD]. [n] bool.
        metadata: where it comes from: file, missing policy and what the file itself says (encoder, revision, ...).
        side: ``item``, ``user``, ``interaction`` or ``entity``, of a knowledge graph.
    """

    name: str
    id_field: str
    matrix: np.ndarray
    present: np.ndarray
    metadata: Mapping[str, str] = field(default_factory=dict)
    side: str = "item"

    @property
    def dim(self) -> int:
        """Length F of a row."""
        return self.matrix.shape[1]

    @property
    def coverage(self) -> float:
        """Share of the dataset's tokens, [PAD] aside, that the file holds a row for; in [0, 1]."""
        return float(self.present.sum()) / max(len(self.present) - 1, 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over shape, rows and ``present``: equal where a model sees the same numbers. Computed on first use."""
        digest = hashlib.sha256(repr(self.matrix.shape).encode())
        digest.update(np.ascontiguousarray(self.matrix))
        digest.update(self.present.tobytes())
        return digest.hexdigest()

    def released(self) -> "AlignedFeature":
        """The same without its rows, once a model has made its own of them: what a record says of it stays."""
        described = replace(self, matrix=self.matrix[:0].copy())
        described.__dict__["fingerprint"] = self.fingerprint
        return described

    def coverage_line(self, interaction_counts: np.ndarray | None = None) -> str:
        """One line for the log: ``content: 1659/1682 items, 98.6 %, 99.3 % of interactions``.

        Args:
            interaction_counts: interactions per id; without it the last part is left out. [n] int.
        """
        present, total = int(self.present.sum()), len(self.present) - 1
        line = f"{self.name}: {present}/{total} {SIDES[self.side]}, {100 * self.coverage:.1f} %"
        if interaction_counts is None:
            return line
        counts = np.asarray(interaction_counts)
        if counts.shape != self.present.shape:
            raise ValueError(f"interaction_counts has shape {counts.shape}, the feature {self.present.shape}")
        share = counts[self.present].sum() / max(counts.sum(), 1)  # id 0: interactions that name no row
        return f"{line}, {100 * share:.1f} % of interactions"


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """An embedding table keyed by token, as it lies on disk.

    Attributes:
        path: the file the user named.
        name: name of the feature: the file's last suffix, ``content`` of ``ml-100k.content.safetensors``.
        id_field: field that the tokens belong to.
        tokens: external ids in row order, unique.
        embedding: rows, a read-only memory map where the file can be mapped. [n, F] float16 or float32.
        metadata: what the file says about itself.
    """

    path: Path
    name: str
    id_field: str
    tokens: Sequence[str]
    embedding: np.ndarray
    metadata: Mapping[str, str]

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """token -> row."""
        return {token: row for row, token in enumerate(self.tokens)}

    def align(self, tokens: Sequence[str], missing: str = "error", side: str = "item") -> AlignedFeature:
        """Bring the rows into the order of a dataset's ids.

        Rows are matched by token, never by position. Tokens of the file that the dataset does not know are ignored.

        Args:
            tokens: the dataset's tokens by id, ``dataset.field2id_token[id_field]``; the first is ``[PAD]``. [n].
            missing: what a token without a row gets. ``error``: raise; ``zero``: zeros; ``mean``: the mean of the rows
                that the dataset uses; ``learned``: zeros, for the model to fill where ``present`` is False.
            side: ``item``, ``user`` or ``interaction``, for messages.
        Returns:
            The aligned feature; its matrix is the only copy of the rows in memory.
        Raises:
            MissingFeatureError: tokens have no row and ``missing`` is ``error``.
            FeatureError: no token of the dataset has a row, whatever ``missing`` says.
            ConfigError: an unknown policy.
            ValueError: the first token is not ``[PAD]``.
        """
        if missing not in MISSING_POLICIES:
            policies = ", ".join(MISSING_POLICIES)
            raise ConfigError(f"feature '{self.name}': missing is '{missing}'; choose from {policies}")
        if not len(tokens) or tokens[0] != PAD:
            raise ValueError(f"tokens must be a dataset's tokens by id, the first of them '{PAD}'")
        row_of = self.row_of
        rows = np.array([-1, *(row_of.get(str(token), -1) for token in tokens[1:])], dtype=np.int64)
        present = rows >= 0
        self._check_coverage(tokens, present, missing, side)
        matrix = np.empty((len(tokens), self.embedding.shape[1]), dtype=np.float32)
        if self.embedding.dtype == matrix.dtype:
            np.take(self.embedding, rows, axis=0, out=matrix, mode="clip")  # "raise" would copy the whole output
        else:
            for start in range(0, len(rows), _BLOCK_ROWS):
                block = slice(start, start + _BLOCK_ROWS)
                matrix[block] = self.embedding[rows[block]]
        matrix[~present] = 0
        if missing == "mean" and not present[1:].all():
            matrix[1:][~present[1:]] = matrix.sum(axis=0, dtype=np.float64) / present.sum()
        metadata = {**self.metadata, "file": str(self.path), "missing": missing}
        return AlignedFeature(self.name, self.id_field, matrix, present, metadata, side)

    def _check_coverage(self, tokens: Sequence[str], present: np.ndarray, missing: str, side: str) -> None:
        absent = np.flatnonzero(~present[1:]) + 1
        total = f"{len(tokens) - 1} {SIDES[side]}"
        if not len(absent):
            return
        example = str(tokens[absent[0]])
        if missing == "error":
            raise MissingFeatureError(
                f"{len(absent)} of {total} have no row in {self.path} (e.g. '{example}'); encode them, or set "
                f"missing: zero, mean or learned for the feature '{self.name}'"
            )
        if len(absent) == len(tokens) - 1:
            raise FeatureError(
                f"none of the {total} has a row in {self.path} (the dataset has e.g. '{example}', the file "
                f"'{self.tokens[0]}'); name a file of this dataset"
            )


def open_feature(path: Path | str, *, id_field: str, cache_dir: Path | str | None = None) -> FeatureTable:
    """Open an embedding feature in its text or its binary form.

    Args:
        path: ``<dataset>.<feature>.safetensors``, or RecBole's text suffix file ``<dataset>.<feature>``. The text form
            is converted once; the conversion is kept beside the file, in ``cache_dir`` where given, or in the user's
            cache folder where the file's folder is not writable, and is made anew when the file's content changes.
        id_field: field that the file's tokens must belong to, ``item_id`` or ``user_id``.
        cache_dir: folder for conversions.
    Returns:
        The table; its rows stay on disk until aligned.
    Raises:
        FeatureError: no such file, or it is empty, truncated, corrupted or malformed, or belongs to another field.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatureError(f"{path}: no such feature file{_near(path.name, [path.parent])}; check its name and folder")
    if path.suffix != _SUFFIX:
        tokens, embedding, metadata = open_text_feature(path, id_field, None if cache_dir is None else Path(cache_dir))
    else:
        tokens, embedding, metadata = read_feature(path)
        if metadata["id_field"] != id_field:
            raise FeatureError(
                f"{path}: its rows belong to '{metadata['id_field']}', not to '{id_field}'; set the feature's side or "
                "id_field, or name another file"
            )
    name = path.name.removesuffix(_SUFFIX).rpartition(".")[2]
    return FeatureTable(path, name, id_field, tokens, embedding, metadata)


def load_features(
    specs: Mapping[str, Mapping[str, str] | None],
    dataset_dirs: Sequence[Path | str],
    dataset_name: str,
    tokens_by_field: Mapping[str, Sequence[str]],
    cache_dir: Path | str | None = None,
    id_fields: Mapping[str, str] | None = None,
    split: tuple[str, str] | None = None,
) -> dict[str, AlignedFeature]:
    """Open and align the features of a configuration's ``features:`` block.

    Args:
        specs: feature name -> its settings, or None to leave the feature out. All settings are optional: ``file`` (a
            name in one of the folders, or a path), ``side`` (item, user, interaction or entity), ``missing`` (error,
            zero, mean or learned) and ``id_field`` (the file's, where the dataset calls it otherwise).
        dataset_dirs: folders to look in, first hit wins. Without ``file`` each is searched for
            ``<dataset>.<feature>.safetensors``, then ``<dataset>.<feature>``.
        dataset_name: name of the dataset.
        tokens_by_field: the dataset's tokens by id for each id field, the first of them ``[PAD]``.
        cache_dir: folder for conversions of text files.
        id_fields: side -> the dataset's id field; by default ``item_id``, ``user_id``, ``review_id``, ``entity_id``.
        split: fingerprint and protocol of the split that the rows will be used under.
    Returns:
        feature name -> aligned feature, in the order of ``specs``.
    Raises:
        ConfigError: an unknown setting, side, policy or id field.
        FeatureError: a file is found nowhere or is not valid.
        MissingFeatureError: tokens have no row under ``missing: error``.
        SplitMismatchError: the rows were made from the training rows of another split.
    """
    fields = {"item": "item_id", "user": "user_id", "interaction": "review_id", "entity": "entity_id"} | dict(
        id_fields or {}
    )
    specs = {name: spec for name, spec in specs.items() if spec is not None}
    for name, spec in specs.items():  # a misspelt key must not wait for gigabytes
        _check_spec(name, spec)
    features = {}
    for name, spec in specs.items():
        side = spec.get("side", "item")
        if fields[side] not in tokens_by_field:
            raise ConfigError(
                f"feature '{name}': the dataset has no {side} ids '{fields[side]}' (it has "
                f"{', '.join(tokens_by_field)}); set the feature's side, or load the column in load_col"
            )
        path = _find(name, spec, [Path(folder) for folder in dataset_dirs], dataset_name)
        table = open_feature(path, id_field=spec.get("id_field", fields[side]), cache_dir=cache_dir)
        if split is not None:
            check_split(f"feature '{name}' ({path})", table.metadata, *split)
        aligned = table.align(tokens_by_field[fields[side]], spec.get("missing", "error"), side)
        features[name] = AlignedFeature(name, fields[side], aligned.matrix, aligned.present, aligned.metadata, side)
    return features


def _check_spec(name: str, spec: Mapping[str, str]) -> None:
    if not isinstance(spec, Mapping):
        raise ConfigError(f"feature '{name}': its settings are {spec!r}; write them as keys: {', '.join(_SPEC_KEYS)}")
    for key in spec:
        if key not in _SPEC_KEYS:
            near = difflib.get_close_matches(str(key), _SPEC_KEYS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(_SPEC_KEYS)}"
            raise ConfigError(f"feature '{name}' has no setting '{key}'; {hint}")
    for key, allowed in (("side", tuple(SIDES)), ("missing", MISSING_POLICIES)):
        if spec.get(key, allowed[0]) not in allowed:
            raise ConfigError(f"feature '{name}': {key} is '{spec[key]}'; choose from {', '.join(allowed)}")


def _find(name: str, spec: Mapping[str, str], folders: Sequence[Path], dataset: str) -> Path:
    names = [spec["file"]] if "file" in spec else [f"{dataset}.{name}{_SUFFIX}", f"{dataset}.{name}"]
    # joining an absolute path to a folder gives that path, so that 'file' may be either
    tried = [folder / file for folder in folders for file in names]
    for path in tried:
        if path.is_file():
            return path
    raise FeatureError(
        f"feature '{name}': found no file; looked for {', '.join(dict.fromkeys(map(str, tried)))}"
        f"{_near(Path(names[0]).name, folders)}; set features: {name}: file, or encode it"
    )


def _near(name: str, folders: Sequence[Path]) -> str:
    """`` (did you mean 'x'?)`` where a folder holds files with a similar name, else nothing."""
    found = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_file()]
    near = difflib.get_close_matches(name, [file for file in found if not file.startswith(".")], n=3, cutoff=0.7)
    return f" (did you mean {' or '.join(repr(file) for file in dict.fromkeys(near))}?)" if near else ""
