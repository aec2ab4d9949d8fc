"""Fixed candidates: what the draw depends on, and that it is uniform."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from recbole_llm.data.candidates import draw_candidates
from recbole_llm.errors import DataError


class TestCandidates:
    universe = [f"i{i:04d}" for i in range(1682)]
    targets = [(f"u{u}", f"i{u % 1682:04d}") for u in range(938)]

    def draw(self, targets=None, universe=None, n=99, seed=2020, part="test"):
        return draw_candidates(targets or self.targets, universe or self.universe, n, seed, part)

    def test_shape_distinct_and_without_target(self):
        drawn = self.draw()
        assert drawn.shape == (938, 99)
        for row, (_, target) in zip(drawn.tolist(), self.targets, strict=True):
            assert len(set(row)) == 99
            assert target not in row
            assert set(row) <= set(self.universe)

    def test_depends_on_seed_part_and_user_alone(self):
        drawn = self.draw()
        order = np.random.default_rng(0).permutation(938)[:500]
        again = self.draw([self.targets[i] for i in order], universe=self.universe[::-1])
        assert (again == drawn[order]).all()
        for other in (self.draw(seed=2021), self.draw(part="valid")):
            overlap = np.mean([len(set(a) & set(b)) for a, b in zip(drawn, other, strict=True)])
            assert overlap == pytest.approx(99 * 99 / 1681, abs=0.5)  # as two independent draws share

    def test_equals_the_written_out_algorithm(self):
        """SplitMix64 and Floyd's sampling in plain Python integers: no numpy version can change the protocol."""
        drawn = self.draw()
        for (user, target), row in zip(self.targets[::100], drawn[::100].tolist(), strict=True):
            key = hashlib.blake2b(f'[2020, "test", "{user}"]'.encode(), digest_size=8).digest()
            state, picks = int.from_bytes(key, "little"), []
            for last in range(1681 - 99, 1681):
                state = (state + 0x9E3779B97F4A7C15) % 2**64
                z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
                z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
                pick = int((z ^ z >> 31) / 2**64 * (last + 1))
                picks.append(last if pick in picks else pick)
            others = [item for item in self.universe if item != target]
            assert row == [others[pick] for pick in picks]

    def test_every_item_is_equally_likely(self):
        universe, target = list("abcdef"), "c"
        drawn = draw_candidates([(f"u{u}", target) for u in range(4000)], universe, 2, 1, "valid")
        pairs = Counter(frozenset(row) for row in drawn.tolist())
        assert len(pairs) == 10  # all pairs of the other five
        assert all(count == pytest.approx(400, abs=4 * 19) for count in pairs.values())

    def test_all_but_the_target(self):
        drawn = draw_candidates([("u", "b"), ("v", "a")], ["a", "b", "c"], 2, 1, "test")
        assert [sorted(row) for row in drawn.tolist()] == [["a", "c"], ["b", "c"]]

    @pytest.mark.parametrize(
        ("targets", "n", "message"),
        [
            ([("u", "a")], 3, "cannot draw 3 candidates from 3 items"),
            ([("u", "a")], 0, "cannot draw 0"),
            ([("u", "z")], 1, r"1 targets are not in the item universe \(e.g. 'z'\)"),
            ([("u", "a"), ("u", "b")], 1, "more than one target"),
        ],
    )
    def test_errors(self, targets, n, message):
        with pytest.raises(DataError, match=message):
            draw_candidates(targets, ["a", "b", "c"], n, 1, "test")
