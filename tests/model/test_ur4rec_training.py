"""UR4RecMoE in training: parameter groups, stages, the placebo, the large configuration."""

import numpy as np
import pytest
import torch
from contract import SequentialContract, total
from synthetic import FACETS, SMALL_UR4REC, write_clusters, write_cycle

from recbole_llm.config import build_config
from recbole_llm.experiment.data import build_data, eval_data, train_loader
from recbole_llm.model.sequential.ur4rec_moe import UR4RecMoE
from recbole_llm.paths import properties_dir


class Small(SequentialContract):
    """Only its builders are used here."""

    __test__ = False
    model = "UR4RecMoE"
    config = SMALL_UR4REC


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


class TestStages:
    def test_groups_are_disjoint_and_cover_all(self, folder):
        _, _, model = Small.build(folder)
        groups = model.parameter_groups()
        ids = [id(p) for parameters in groups.values() for p in parameters]
        assert set(groups) == {"sasrec", "retriever"} and all(groups.values())
        assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}

    def gradients(self, model, batch, stage: str) -> dict[str, torch.Tensor | None]:
        model.eval()  # no dropout, so that stages can be compared
        model.set_stage(stage)
        model.zero_grad(set_to_none=True)
        total(model.calculate_loss(batch)).backward()
        return {
            name: None if p.grad is None or not p.grad.any() else p.grad.clone() for name, p in model.named_parameters()
        }

    def test_each_stage_trains_what_it_says(self, folder):
        # all items are negatives, so that nothing hangs on the draw
        config, data, model = Small.build(folder, sasrec_loss="ce", num_negatives=100)
        batch = next(iter(train_loader(config, data)))
        torch.nn.init.normal_(model.fusion.gate[-1].weight)
        retriever = {n for n, _ in model.named_parameters() if n.startswith(("retriever.", "fusion."))}
        grads = {
            stage: self.gradients(model, batch, stage)
            for stage in ("pretrain_sasrec", "pretrain_retriever", "joint_finetune", "end_to_end")
        }
        reached = {stage: {n for n, g in by_name.items() if g is not None} for stage, by_name in grads.items()}
        assert not reached["pretrain_sasrec"] & retriever
        assert reached["pretrain_retriever"] == retriever
        assert reached["joint_finetune"] == reached["end_to_end"] == set(grads["end_to_end"])
        for name in set(grads["end_to_end"]) - retriever:
            # joint: each by its own losses; end to end: the retriever's losses reach the backbone
            torch.testing.assert_close(grads["joint_finetune"][name], grads["pretrain_sasrec"][name])
        assert not torch.allclose(
            grads["end_to_end"]["item_embedding.weight"], grads["joint_finetune"]["item_embedding.weight"]
        )

    def test_the_item_side_is_made_anew_after_training(self, folder):
        config, data, model = Small.build(folder, fusion="fixed")
        batch, inputs = next(iter(train_loader(config, data))), Small.inputs(config, data)
        with torch.no_grad():
            before = model.eval().full_sort_predict(inputs)
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        total(model.calculate_loss(batch)).backward()
        optimizer.step()
        with torch.no_grad():
            after = model.eval().full_sort_predict(inputs)
            fresh = Small.build(folder, fusion="fixed")[2]
            fresh.load_state_dict(model.state_dict())
            torch.testing.assert_close(after, fresh.eval().full_sort_predict(inputs))
        assert not torch.allclose(before, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    "item_text_dim, steps, least_true, least_loss",
    [(8, 30, 0.9, 0.5), (0, 45, 0.5, 0.15)],  # alone, the retriever learns more slowly, and ids catch up meanwhile
    ids=["text in both parts", "text in the retriever alone"],
)
def test_the_placebo_loses_what_features_tell(tmp_path, item_text_dim, steps, least_true, least_loss):
    """Shuffled rows, all else equal: fewer of the recommended items lie in the user's cluster (1 of 6 by chance)."""
    write_clusters(tmp_path)

    def share_right(placebo: str) -> float:
        settings = SMALL_UR4REC | {
            "data_path": str(tmp_path),
            "features": {name: {} for name in FACETS},
            "placebo": placebo,
            "item_text_dim": item_text_dim,
            "MAX_ITEM_LIST_LENGTH": 10,
            "chunk_batch_size": 32,
            "retriever_chunks": 32,
            "num_negatives": 50,
            "use_gpu": False,
        }
        config = build_config("UR4RecMoE", "clusters", (), settings, ())
        data = build_data(config)
        torch.manual_seed(0)
        model = UR4RecMoE(config, data.train)
        Small.fit(config, data, model, steps)
        valid = eval_data(config, data, "valid")
        with torch.no_grad():
            scores = model.eval().full_sort_predict(valid.inputs)
        best = scores[:, 1:].topk(10, 1).indices.numpy() + 1
        cluster = np.array([token.split("-")[0] for token in data.base.field2id_token["item_id"]])
        return float((cluster[best] == cluster[valid.tasks[0].pos_items][:, None]).mean())

    true, shuffled = share_right("none"), share_right("shuffle")
    assert true > least_true and shuffled < true - least_loss


LARGE = properties_dir() / "model" / "UR4RecMoE-large.yaml"


@pytest.mark.slow
@pytest.mark.skipif(not LARGE.is_file(), reason="UR4RecMoE-large.yaml is not there")
def test_the_large_configuration_has_71_million_parameters_and_trains_a_step():
    config = build_config("UR4RecMoE", "ml-100k", [LARGE], {"use_gpu": False}, ())
    data = build_data(config)
    torch.manual_seed(0)
    model = UR4RecMoE(config, data.train)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(71e6, rel=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.item_embedding.weight[1].clone()
    loss = total(model.train().calculate_loss(next(iter(train_loader(config, data)))))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and not torch.equal(before, model.item_embedding.weight[1])
