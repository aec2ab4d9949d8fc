"""The rules of a split, in the words of RecBole's ``eval_args``, and how many rows of a group go where."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recbole_llm.errors import ConfigError

TRAIN, VALID, TEST = 0, 1, 2
_LEAVE_ONE_OUT = {"valid_and_test": (VALID, TEST), "valid_only": (VALID,), "test_only": (TEST,)}


@dataclass(frozen=True)
class SplitSpec:
    """Protocol of a split, in the words of RecBole's ``eval_args``.

    Attributes:
        split: ``{"LS": "valid_and_test" | "valid_only" | "test_only"}`` (leave one out, always by user) or
            ``{"RS": [train, valid, test]}`` (ratios, need not sum to 1).
        order: "TO" by time, equal timestamps keep file order; "RO" random by ``seed``.
        group_by: "user" or "none" (ratios over the whole data set).
        seed: split_seed, >= 0, apart from the model's seed.
        min_rating: interactions rated below are dropped before everything else; None keeps all.
        min_user_inter: users with fewer interactions left are dropped; None keeps all.
        cold_items: share of the items that are held out whole, in [0, 1): half of them with all their interactions for
            validation, half for test, drawn by ``seed``; the other interactions are split as ever.

    Raises:
        ConfigError: on an unknown or contradicting setting.
    """

    split: Mapping
    order: str = "TO"
    group_by: str = "user"
    seed: int = 2020
    min_rating: float | None = None
    min_user_inter: int | None = None
    cold_items: float = 0.0

    def __post_init__(self):
        if not isinstance(self.split, Mapping) or len(self.split) != 1:
            raise ConfigError(f"eval_args.split must hold exactly one of LS and RS, not {self.split!r}")
        kind, value = next(iter(self.split.items()))
        if kind == "LS":
            if value not in _LEAVE_ONE_OUT:
                raise ConfigError(f"eval_args.split.LS is {value!r}{_one_of(value, _LEAVE_ONE_OUT)}")
            if self.group_by != "user":
                raise ConfigError(
                    f"eval_args.split LS leaves out by user, so group_by must be user, not {self.group_by}"
                )
        elif kind == "RS":
            if not _are_ratios(value):
                raise ConfigError(f"eval_args.split.RS must be three numbers >= 0, the first above 0, not {value!r}")
        else:
            raise ConfigError(f"eval_args.split is {kind!r}{_one_of(kind, ('LS', 'RS'))}")
        for key, allowed in (("order", ("TO", "RO")), ("group_by", ("user", "none"))):
            if getattr(self, key) not in allowed:
                raise ConfigError(f"eval_args.{key} is {getattr(self, key)!r}{_one_of(getattr(self, key), allowed)}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ConfigError(f"split_seed must be a whole number >= 0, not {self.seed!r}")
        share = self.cold_items
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < 1:
            raise ConfigError(f"cold_items is a share of the items, at least 0 and below 1, not {share!r}")
        # one spelling each (4 and 4.0, list and tuple), because the fingerprint covers the spec's text
        object.__setattr__(self, "split", {kind: value if kind == "LS" else [float(ratio) for ratio in value]})
        for key, plain in (("min_rating", float), ("min_user_inter", int)):
            value = getattr(self, key)
            if value is not None:
                if not isinstance(value, int | float) or plain(value) != value:
                    raise ConfigError(f"{key} must be a number, not {value!r}")
                object.__setattr__(self, key, plain(value))

    def part_sizes(self, total: int) -> tuple[int, int, int]:
        """Sizes of train, valid and test for one group of ``total`` >= 1 interactions, by RecBole's rules.

        A user with too few interactions keeps one for training; with two of them, "valid_and_test" gives the second
        to test. With ratios, a part that would round down to 0 takes one from train while train has more than one.
        """
        kind, value = next(iter(self.split.items()))
        if kind == "LS":
            left_out = _LEAVE_ONE_OUT[value][-(total - 1) :] if total > 1 else ()
            return total - len(left_out), int(VALID in left_out), int(TEST in left_out)
        ratios = [ratio / sum(value) for ratio in value]
        sizes = [int(ratio * total) for ratio in ratios]
        sizes[TRAIN] = total - sizes[VALID] - sizes[TEST]
        for part in (TEST, VALID):
            if sizes[TRAIN] > 1 and 0 < ratios[part] * total < 1:
                sizes[part] += 1
                sizes[TRAIN] -= 1
        return sizes[TRAIN], sizes[VALID], sizes[TEST]


def _are_ratios(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 3
        and all(isinstance(ratio, int | float) and 0 <= ratio < float("inf") for ratio in value)
        and value[0] > 0
    )


def _one_of(value: object, allowed) -> str:
    near = difflib.get_close_matches(str(value), allowed, 1)
    return f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(allowed)}"
