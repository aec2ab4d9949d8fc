"""Items held out whole: who they are, where their rows go, and that splits without them are what they were."""

import numpy as np
import pytest
from synthetic import cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.data.split import Split
from recbole_llm.data.split_spec import SplitSpec
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment import run
from recbole_llm.experiment.data import build_data, eval_data

WARM_ALL = {"RS": [1.0, 0.0, 0.0]}


def rows(n_users: int = 30, n_items: int = 20, seed: int = 0):
    rng = np.random.default_rng(seed)
    pairs = [(f"u{u}", f"i{i}") for u in range(n_users) for i in rng.permutation(n_items)[:8]]
    users, items = zip(*pairs, strict=True)
    return np.array(users, dtype=object), np.array(items, dtype=object)


def spec(**changes) -> SplitSpec:
    return SplitSpec(**({"split": WARM_ALL, "order": "RO", "cold_items": 0.4} | changes))


def test_cold_items_have_no_training_row_and_their_rows_are_all_there():
    users, items = rows()
    split = Split.from_interactions(users, items, spec())
    cold = {part: set(tokens) for part, tokens in split.cold_items.items()}
    assert len(cold["valid"]) == len(cold["test"]) == 4 and not cold["valid"] & cold["test"]
    test = split.open_test()
    assert set(items[split.valid]) == cold["valid"] and set(items[test]) == cold["test"]
    assert not set(items[split.train]) & (cold["valid"] | cold["test"])
    assert sorted(np.concatenate([split.train, split.valid, test])) == list(range(len(users)))


def test_the_other_rows_are_split_as_ever():
    users, items = rows()
    split = Split.from_interactions(users, items, spec(split={"RS": [0.5, 0.25, 0.25]}))
    test = split.open_test()
    cold = set(split.cold_items["valid"]) | set(split.cold_items["test"])
    for user in set(users):
        own = [np.sum([u == user and i not in cold for u, i in zip(users[p], items[p], strict=True)])
               for p in (split.train, split.valid, test)]  # fmt: skip
        assert tuple(own) == spec(split={"RS": [0.5, 0.25, 0.25]}).part_sizes(sum(own))


def test_drawn_by_the_seed_alone():
    users, items = rows()
    order = np.random.default_rng(1).permutation(len(users))
    one, other = (Split.from_interactions(users[o], items[o], spec()) for o in (slice(None), order))
    assert one.cold_items == other.cold_items and one.fingerprint == other.fingerprint
    assert Split.from_interactions(users, items, spec(seed=7)).cold_items != one.cold_items


def test_a_split_without_cold_items_keeps_its_fingerprint():
    users, items = rows()
    plain = Split.from_interactions(users, items, SplitSpec({"RS": [0.8, 0.1, 0.1]}, order="RO"))
    assert plain.fingerprint.startswith("aa5a40af26b2370422bbad10")  # as before there were cold items
    assert plain.cold_items == {"valid": [], "test": []}
    assert plain.fingerprint != Split.from_interactions(users, items, spec(cold_items=0.2)).fingerprint


@pytest.mark.parametrize("share", [1.0, -0.1, "some", True])
def test_no_share(share):
    with pytest.raises(ConfigError, match="cold_items is a share"):
        spec(cold_items=share)


def test_too_few_and_too_many():
    users, items = rows(n_items=8)
    with pytest.raises(DataError, match="not one a part"):
        Split.from_interactions(users, items, spec(cold_items=0.1))
    with pytest.raises(DataError, match="leaves no item to train on"):
        Split.from_interactions(users, items, spec(cold_items=0.99))


class TestProtocol:
    """item-cold: (a) among the cold items of the part, (b) among all."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory):
        return write_cycle(tmp_path_factory.mktemp("cold"))

    def config(self, folder, **changes):
        return build_config("Pop", "cycle", (), cycle_settings(folder) | {"protocol": "item-cold"} | changes, ())

    @pytest.mark.parametrize("part", ["valid", "test"])
    def test_tasks(self, folder, part):
        config = self.config(folder)
        data = build_data(config)
        cold, everything = eval_data(config, data, part).tasks
        assert (cold.name, everything.name) == ("cold", "all") and everything.candidates is None
        assert all(sorted(set(row)) == data.cold_items[part].tolist() for row in cold.candidates)
        assert np.isin(cold.pos_items, data.cold_items[part]).all() and len(data.cold_items[part]) == 2
        assert not data.item_counts[np.concatenate(list(data.cold_items.values()))].any()
        assert cold.pos_items.tolist() == everything.pos_items.tolist()

    def test_any_protocol_with_the_key_has_cold_and_warm_slices(self, folder, tmp_path):
        settings = cycle_settings(folder) | {"run_dir": str(tmp_path), "state": "WARNING", "protocol": "rs-full"}
        found = run("Pop", "cycle", settings | {"cold_items": 0.2})
        assert found.slices["cold"]["items"] == 4 and found.slices["warm"]["items"] == 20
        assert found.slices["cold"]["positives"] > 0 and found.slices["warm"]["ndcg@10"] > 0
        assert set(run("Pop", "cycle", settings).slices) == {"head", "tail"}

    def test_ranking_cold_items_alone_needs_a_protocol_that_holds_out_nothing_else(self, folder):
        for changes in ({"protocol": "rs-full"}, {"protocol": "rs-full", "cold_items": 0.2}):
            config = self.config(folder, **changes, candidate_items="cold")
            with pytest.raises(ConfigError, match="use protocol: item-cold"):
                eval_data(config, build_data(config), "valid")
        with pytest.raises(ConfigError, match="candidate_items must be 'all' or 'cold'"):
            self.config(folder, candidate_items="warm")
