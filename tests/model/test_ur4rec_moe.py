"""UR4RecMoE: the contract, fusion, experts, switches, missing rows, causality, re-ranking."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from contract import SequentialContract, total
from recbole.data.interaction import Interaction
from synthetic import FACETS, SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.experiment.data import build_data, eval_data, train_loader
from recbole_llm.model.layers import standardised
from recbole_llm.model.sequential.ur4rec_moe import UR4RecMoE
from recbole_llm.registry import resolve_model


class TestUR4RecMoE(SequentialContract):
    model = "UR4RecMoE"
    config = SMALL_UR4REC
    steps = 100


@pytest.mark.slow
class TestFlatWithFixedFusion(SequentialContract):
    """The other ends of the two main switches, with re-ranking and augmentation on."""

    model = "UR4RecMoE"
    config = SMALL_UR4REC | {
        "moe": "flat",
        "fusion": "fixed",
        "rerank_topk": 4,
        "mask_rate": 0.05,
        "reorder_rate": 0.05,
        "substitute_rate": 0.05,
    }
    steps = 150


@pytest.mark.slow
class TestWithScoreHeads(SequentialContract):
    model = "UR4RecMoE"
    # the cycle's users come back to its items
    config = SMALL_UR4REC | {"score_heads": {"markov": 0.5, "ease": 0.3}, "markov_window": 4, "heads_on_history": True}
    steps = 40

    def test_heads_are_added_to_the_standardised_score(self, fitted, folder):
        config, data, model, _ = fitted
        _, _, plain = self.build(folder, score_heads={})
        plain.load_state_dict(model.state_dict())
        inputs = self.inputs(config, data)
        with torch.no_grad():
            difference = model.full_sort_predict(inputs) - standardised(plain.eval().full_sort_predict(inputs))
        settings = {"markov_decay": config["markov_decay"], "markov_norm": config["markov_norm"], "markov_window": 4}
        expected = 0.0
        for name, weight in (("Markov", 0.5), ("EASEMarkov", 0.3)):
            own = cycle_settings(folder) | settings | {"MAX_ITEM_LIST_LENGTH": 20}
            if name == "EASEMarkov":
                own |= {"ease_weight": 1.0, "reg_weight": config["reg_weight"]}
            other = build_config(name, "cycle", (), own, ())
            whole = build_data(other)
            baseline = resolve_model(name)(other, whole.train)
            scores = baseline.full_sort_predict(eval_data(other, whole, "valid").inputs)
            expected = expected + weight * standardised(scores)
        torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-4)

    def test_they_say_nothing_about_the_history(self, fitted, folder):
        config, data, model, _ = fitted
        _, _, silent = self.build(folder, heads_on_history=False)
        inputs = self.inputs(config, data)
        item_seq, lengths, users = (inputs[k] for k in ("item_id_list", "item_length", "user_id"))
        speaking, quiet = (m.heads(item_seq, lengths, users) for m in (model, silent))
        rows = data.train.inter_feat
        for k, user in enumerate(users.tolist()):
            history = {*item_seq[k].tolist(), *rows["item_id"][rows["user_id"] == user].tolist()} - {0}
            old = torch.zeros(model.n_items, dtype=torch.bool)
            old[list(history)] = True
            assert (quiet[k, old] == 0).all() and (speaking[k, old] != 0).any()
            assert torch.equal(quiet[k, ~old], speaking[k, ~old])

    def test_an_unknown_head_is_named(self, folder):
        with pytest.raises(ConfigError, match="score_heads names 'knn'; choose from markov, ease"):
            self.build(folder, score_heads={"knn": 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


@pytest.fixture
def built(folder):
    """Function from changed settings to (config, data, model, first batch)."""

    def build(**changes):
        config, data, model = TestUR4RecMoE.build(folder, **changes)
        return config, data, model, next(iter(train_loader(config, data)))

    return build


def histories(config, data) -> Interaction:
    return SequentialContract.inputs(config, data)


def z(scores: torch.Tensor) -> torch.Tensor:
    """Standardised over real items, the naive way."""
    real = scores[:, 1:]
    return (scores - real.mean(1, keepdim=True)) / real.std(1, keepdim=True, correction=0)


class TestFusion:
    def test_at_step_0_the_gate_ranks_as_the_backbone(self, built):
        config, data, model, _ = built()
        model.double().eval()
        inputs = histories(config, data)
        with torch.no_grad():
            fused = model.full_sort_predict(inputs)
            model.set_stage("pretrain_sasrec")
            backbone = model.full_sort_predict(inputs)
        assert torch.equal(fused[:, 1:].argsort(1), backbone[:, 1:].argsort(1))
        assert backbone[:, 1:].std() > 0

    @pytest.mark.parametrize("fusion", ["fixed", "gate"])
    def test_the_inner_product_is_the_weighted_sum_of_standardised_scores(self, built, fusion):
        config, data, model, _ = built(fusion=fusion)
        if fusion == "gate":
            torch.nn.init.normal_(model.fusion.gate[-1].weight, generator=torch.Generator().manual_seed(0))
        model.double().eval()
        inputs = histories(config, data)
        with torch.no_grad():
            fused = model.full_sort_predict(inputs)
            _, _, parts = model.score_vectors(inputs)
            model.set_stage("pretrain_sasrec")
            backbone = model.full_sort_predict(inputs)
        r_u, f = parts["r_u"], parts["f"]
        cosine = torch.stack([F.cosine_similarity(r[None], f, dim=1) for r in r_u]) / model.temperature
        weight = parts["weight"]
        expected = (1 - weight) * z(backbone) + weight * z(cosine)
        torch.testing.assert_close(fused[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)
        assert weight.abs().min() > 1e-3  # the retriever takes part

    def test_a_fixed_weight_is_the_retriever_s_share(self, built):
        _, _, model, _ = built(fusion="fixed", retriever_weight=0.6)
        state = torch.randn(3, 16)
        assert model.fusion.weight(state, state).tolist() == [[pytest.approx(0.6)]] * 3


class TestExperts:
    def test_nine_experts_when_hierarchical_three_when_flat(self, built):
        for moe, counts in (("hierarchical", [3, 3, 3]), ("flat", [1, 1, 1])):
            _, _, model, _ = built(moe=moe)
            assert [len(m.experts.query.weight) for m in model.retriever.moe.values()] == counts

    def test_every_expert_gets_gradient(self, built):
        _, _, model, batch = built()
        total(model.train().calculate_loss(batch)).backward()
        for modality, moe in model.retriever.moe.items():
            for name, p in moe.experts.named_parameters():
                by_expert = p.grad.flatten(1).abs().sum(1)
                assert len(by_expert) == 3 and (by_expert > 0).all(), f"{modality} {name}"

    def test_usage_sums_to_one(self, built):
        config, data, model, _ = built()
        with torch.no_grad():
            model.eval().full_sort_predict(histories(config, data))
        usage = model.expert_usage()
        assert {m: list(shares) for m, shares in usage.items()} == {
            "user": ["genre", "mood", "style"],
            "description": ["content", "theme", "quality"],
            "visual": ["composition", "colour_texture", "object"],
            "item": ["description", "visual"],
        }
        for shares in usage.values():
            assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
            assert min(shares.values()) > 0
        assert model.expert_usage() == {}  # counted since the last call

    def test_facets_that_do_not_fit_the_experts_are_named(self, built):
        with pytest.raises(ConfigError, match="item_facets names 2 facets for num_sub_experts: 3"):
            built(item_facets=["content", "theme"])

    def test_an_unknown_mixture_is_named(self, built):
        with pytest.raises(ConfigError, match="moe is 'deep'; choose hierarchical or flat"):
            built(moe="deep")


SWITCHES = {
    "no user facets": ({"user_facets": []}, {"description", "visual"}),
    "no descriptions": ({"item_facets": []}, {"user", "visual"}),
    "no visual facets": ({"visual_facets": []}, {"user", "description"}),
    "no clip": ({"use_clip": False}, {"user", "description"}),
    "descriptions alone": ({"user_facets": [], "use_clip": False}, {"description"}),
    "ids alone in the backbone": ({"item_text_dim": 0}, {"user", "description", "visual"}),
    "flat": ({"moe": "flat"}, {"user", "description", "visual"}),
    "sparse gates": ({"expert_top_k": 2}, {"user", "description", "visual"}),
    "full cross-entropy": ({"sasrec_loss": "ce"}, {"user", "description", "visual"}),
    "no auxiliary loss": ({"contrastive_weight": 0.0, "alignment_weight": 0.0, "load_balance_weight": 0.0}, None),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_part_can_be_switched(built, switch):
    changes, modalities = SWITCHES[switch]
    config, data, model, batch = built(**changes)
    if modalities is not None:
        assert set(model.retriever.names) == modalities
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        loss = total(model.train().calculate_loss(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    with torch.no_grad():
        scores = model.eval().full_sort_predict(histories(config, data))
    assert torch.isfinite(scores).all() and scores[:, 1:].std() > 0


def test_without_item_facets_there_is_no_retriever_to_train(built):
    with pytest.raises(ConfigError, match="needs item facets: set item_facets or visual_facets"):
        built(item_facets=[], use_clip=False)


class TestMissingRows:
    """Item 3 lacks the theme, item 5 every facet."""

    @pytest.fixture
    def holed(self, folder):
        config = TestUR4RecMoE.settings(folder)
        data = build_data(config)
        for name in FACETS:
            feature = data.features[name]
            matrix, present = feature.matrix.copy(), feature.present.copy()
            for item in (3, 5) if name == "theme" else (5,):
                matrix[item], present[item] = 0.0, False
            data.features[name] = replace(feature, matrix=matrix, present=present)
        torch.manual_seed(0)
        return config, data, UR4RecMoE(config, data.train)

    def test_their_gate_is_exactly_zero(self, holed):
        model = holed[2].eval()
        with torch.no_grad():
            side = model.retriever.items(model.item_vectors())
        theme = model.expert_names["description"].index("theme")
        gates = side["gates"]["description"]
        assert gates[3, theme] == 0.0 and gates[3].sum().item() == pytest.approx(1.0)
        assert (gates[[1, 2, 4, 6]] > 0).all()
        for name in ("description", "visual", "item"):
            assert not side["gates"][name][5].any()
        assert not side["f"][5].any() and side["f"][3].any()

    def test_what_a_missing_row_holds_changes_nothing(self, holed):
        config, data, model = holed
        with torch.no_grad():
            before = model.eval().retriever.items(model.item_vectors())["f"]
            facet = model.retriever.tokens["description"]
            facet.facet_1[3] = 100.0
            after = model.retriever.items(model.item_vectors())["f"]
        torch.testing.assert_close(after, before)

    def test_users_of_such_items_are_scored(self, holed):
        config, data, model = holed
        batch = next(iter(train_loader(config, data)))
        loss = total(model.train().calculate_loss(batch))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
        only = {
            "item_id_list": torch.tensor([[5, 5, 0, 0, 0, 0, 0, 0]]),
            "item_length": torch.tensor([2]),
        }
        with torch.no_grad():
            assert torch.isfinite(model.eval().full_sort_predict(Interaction(only))).all()
            tokens, present = model.retriever.user_tokens(only["item_id_list"])
            last_tokens, last_present = model.retriever.last_user_tokens(only["item_id_list"], only["item_length"])
        assert not present.any() and not last_present.any()
        assert not last_tokens.isnan().any()


class TestCausality:
    def test_scoring_reads_the_user_tokens_of_the_last_position(self, built):
        _, data, model, _ = built()
        lengths = torch.tensor([1, 4, 8])
        item_seq = torch.randint(1, data.n_items, (3, 8), generator=torch.Generator().manual_seed(1))
        item_seq = item_seq * (torch.arange(8) < lengths[:, None])
        with torch.no_grad():
            tokens, present = model.retriever.user_tokens(item_seq)
            last_tokens, last_present = model.retriever.last_user_tokens(item_seq, lengths)
        rows = torch.arange(3) * 8 + lengths - 1
        assert torch.equal(last_present, present[rows])
        torch.testing.assert_close(last_tokens, tokens[:, rows])

    def test_a_later_item_leaves_earlier_user_tokens(self, built):
        _, data, model, _ = built()
        item_seq = torch.randint(1, data.n_items, (3, 8), generator=torch.Generator().manual_seed(0))
        other = item_seq.clone()
        other[:, 5] = other[:, 5] % (data.n_items - 1) + 1
        with torch.no_grad():
            before, after = (model.retriever.user_tokens(s)[0].unflatten(1, (3, 8)) for s in (item_seq, other))
        assert torch.equal(before[:, :, :5], after[:, :, :5])
        assert (before[:, :, 5] != after[:, :, 5]).any()

    @pytest.mark.parametrize("stage", ["pretrain_sasrec", "pretrain_retriever"])
    def test_training_scores_each_position_as_its_prefix_alone_is_scored(self, built, stage):
        """So no position sees its target or anything later, in the backbone as in the retriever."""
        config, data, model, batch = built(sasrec_loss="ce", num_negatives=100)
        model.double().eval()
        model.set_stage(stage)
        losses = model.calculate_loss(batch)
        loss = losses if stage == "pretrain_sasrec" else losses[0]
        expected = []
        for items, targets in zip(batch["item_id_list"], batch["target_list"], strict=True):
            for t in range(int((targets > 0).sum())):
                prefix = items.clone()
                prefix[t + 1 :] = 0
                inputs = Interaction({"item_id_list": prefix[None], "item_length": torch.tensor([t + 1])})
                with torch.no_grad():
                    if stage == "pretrain_sasrec":
                        scores = model.full_sort_predict(inputs)
                    else:
                        _, _, parts = model.score_vectors(inputs)
                        scores = F.normalize(parts["r_u"]) @ F.normalize(parts["f"]).T / model.temperature
                expected.append(F.cross_entropy(scores[:, 1:], targets[t : t + 1] - 1))
        torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)


class TestRerank:
    def test_permutes_the_best_k_and_leaves_the_rest(self, built):
        config, data, plain, _ = built(fusion="fixed")
        _, _, reranked, _ = built(fusion="fixed", rerank_topk=6)
        reranked.load_state_dict(plain.state_dict())
        inputs = histories(config, data)
        with torch.no_grad():
            before, after = (m.eval().full_sort_predict(inputs)[:, 1:] for m in (plain, reranked))
        top_before, top_after = (s.topk(6, 1).indices for s in (before, after))
        assert torch.equal(top_before.sort(1).values, top_after.sort(1).values)
        assert not torch.equal(top_before, top_after)
        rest = torch.ones_like(before, dtype=torch.bool).scatter_(1, top_before, False)
        assert torch.equal(before[rest], after[rest])

    def test_more_candidates_than_items_is_all_of_them(self, built):
        config, data, model, _ = built(fusion="fixed", rerank_topk=10_000)
        with torch.no_grad():
            assert torch.isfinite(model.eval().full_sort_predict(histories(config, data))).all()
