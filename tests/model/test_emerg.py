"""EmerGLLMRec: the contract, what its graphs hang on, and its equality with LLMRec where it is off."""

import numpy as np
import pytest
import torch
from contract_general import GeneralContract, build_on_checkerboard
from synthetic import SMALL_LLMREC, write_checkerboard

from recbole_llm.comparison.plan import read_ablation
from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.experiment.data import eval_data, train_loader
from recbole_llm.model.general.llmrec.batch import Rows
from recbole_llm.paths import properties_dir

GRAPHS = {
    "field_dim": 8, "attention_heads": 2, "graph_hidden": 8, "graph_content_dim": 8, "gnn_layers": 2,
    "interaction_every": 4, "cold_weight": 1.0,  # there are few steps
}  # fmt: skip
# two directions: of all eight, whitening would bring noise to the size of what tells the colour
BOARD = SMALL_LLMREC | GRAPHS | {"text_dim": 2}


class TestEmerGLLMRec(GeneralContract):
    model = "EmerGLLMRec"
    config = BOARD
    scores_cold_items = True


@pytest.mark.slow
class TestBySoftmaxWithoutAttention(GeneralContract):
    model = "EmerGLLMRec"
    config = BOARD | {"loss": "softmax", "temperature": 0.3, "use_attention": False, "graph": "shared"}
    scores_cold_items = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkerboard(tmp_path_factory.mktemp("emerg"))


def make(folder, model="EmerGLLMRec", **changes):
    return build_on_checkerboard(model, folder, SMALL_LLMREC | ({} if model == "LLMRec" else GRAPHS) | changes)


def scores(config, data, model) -> torch.Tensor:
    inputs = eval_data(config, data, "valid").inputs
    return model.eval().full_sort_predict(inputs).detach()


def train(config, data, model, steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(8)
    model.train()
    for batch in list(train_loader(config, data))[:steps]:
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        optimizer.step()


@pytest.mark.parametrize("steps", [0, 3])
def test_switched_off_it_is_llmrec_bit_for_bit(folder, steps):
    found = []
    for model in ("LLMRec", "EmerGLLMRec"):
        changes = {} if model == "LLMRec" else {"use_enhanced_gnn": False}
        made = make(folder, model, **changes)
        train(*made, steps)
        found.append(scores(*made))
    assert torch.equal(*found)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_at_step_0_it_scores_as_llmrec(folder, loss):
    assert torch.equal(scores(*make(folder, loss=loss)), scores(*make(folder, "LLMRec", loss=loss)))


def test_while_the_backbone_warms_up_its_losses_are_llmrecs(folder):
    losses = []
    for name in ("LLMRec", "EmerGLLMRec"):
        config, data, model = make(folder, name)
        model.set_stage("warm_up")
        torch.manual_seed(3)
        losses.append([part.item() for part in model.calculate_loss(next(iter(train_loader(config, data))))])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("changes", [{}, {"use_attention": False}, {"graph": "shared"}, {"loss": "softmax"}])
def test_every_parameter_of_the_branch_gets_gradient_and_moves_in_two_steps(folder, changes):
    config, data, model = make(folder, **changes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    reached = set()
    for batch in list(train_loader(config, data))[:2]:
        optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
    branch = {name for name in before if name.startswith(("interaction.", "gates"))}
    parts = {name.split(".")[1] for name in branch if "." in name}
    assert {"generator", "layers", "readout", "narrow", "out"} <= parts
    assert branch <= reached
    assert all(not torch.equal(dict(model.named_parameters())[name], before[name]) for name in branch)


@pytest.mark.parametrize("batch_size", [64, 4])  # the whole catalogue in a step, or the batch's items alone
def test_between_the_steps_that_train_it_the_branch_is_kept(folder, batch_size):
    config, data, model = make(folder, interaction_every=2, train_batch_size=batch_size, edges=None)
    with torch.no_grad():
        model.gates += 0.3
    batches = list(train_loader(config, data))[:3]
    model.train()
    learnt = []
    for batch in batches:
        model.zero_grad(set_to_none=True)
        parts = model.calculate_loss(batch)
        sum(parts).backward()
        layer = model.interaction.layers[0].linear.weight.grad
        learnt.append(layer is not None and bool(layer.abs().sum() > 0))
        assert model.gates.grad[0].abs().sum() > 0  # z is in the score all the same
        assert (parts[1].item() > 0) == learnt[-1] and len(parts) == 6
    assert learnt == [True, False, True]
    model.train()  # an epoch begins with a step that trains it, so that a resumed run repeats it
    assert model.calculate_loss(batches[0])[1].item() > 0


class TestGraphs:
    def test_of_two_items_differ(self, folder):
        _, data, model = make(folder)
        graphs = model.feature_graphs(torch.arange(1, data.n_items))[0].flatten(1)
        assert len({tuple(graph.tolist()) for graph in graphs}) == data.n_items - 1

    def test_of_a_cold_item_hang_on_its_content_alone(self, folder):
        _, data, model = make(folder)
        cold = torch.from_numpy(np.flatnonzero(data.item_counts == 0)[1:])
        before = model.feature_graphs(cold)[0]
        with torch.no_grad():
            for table in (model.user_embedding.weight, model.item_embedding.weight):
                table += torch.randn_like(table)
        assert torch.equal(model.feature_graphs(cold)[0], before)
        model.content[cold] = model.content[cold].flip(0)
        torch.testing.assert_close(model.feature_graphs(cold)[0], before.flip(0))
        assert not torch.allclose(before, before.flip(0))

    def test_move_with_training(self, folder):
        config, data, model = make(folder)
        before = model.feature_graphs(torch.arange(1, 6))[0]
        train(config, data, model, 2)
        assert not torch.allclose(model.feature_graphs(torch.arange(1, 6))[0], before)

    def test_are_made_once_between_evaluations(self, folder, monkeypatch):
        config, data, model = make(folder)
        calls = []
        graphs = model.interaction.graphs
        monkeypatch.setattr(model.interaction, "graphs", lambda content: calls.append(len(content)) or graphs(content))
        model.eval()
        inputs = eval_data(config, data, "valid").inputs
        for _ in range(3):
            model.full_sort_predict(inputs)
        assert calls == [data.n_items]  # each item's own, once


def test_a_cold_item_hangs_on_its_content_alone(folder):
    config, data, model = make(folder)
    train(config, data, model, 5)
    cold = torch.from_numpy(np.flatnonzero(data.item_counts == 0)[1:])
    before = scores(config, data, model)[:, cold]
    with torch.no_grad():
        model.item_embedding.weight[cold] += 1.0
    torch.testing.assert_close(scores(config, data, model)[:, cold], before)
    for branch in model.sides:
        if branch.own is not None:
            branch.own[cold], branch.items[cold] = branch.own[cold].flip(0), branch.items[cold].flip(0)
    model.content[cold] = model.content[cold].flip(0)
    torch.testing.assert_close(scores(config, data, model)[:, cold], before.flip(1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, before.flip(1))


def test_items_in_small_batches_score_the_same(folder):
    wanted = scores(*make(folder))
    config, data, model = make(folder, graph_batch_size=5)
    model.gates.data += 0.5
    other = make(folder)
    other[2].gates.data += 0.5
    torch.testing.assert_close(scores(config, data, model), scores(*other), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(scores(config, data, model), wanted)


def test_checkpointing_changes_no_gradient(folder):
    grads = []
    for on in (False, True):
        config, data, model = make(folder, gradient_checkpointing=on, attention_dropout=0.3)
        torch.manual_seed(3)
        sum(model.train().calculate_loss(next(iter(train_loader(config, data))))).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-5, atol=1e-7, msg=name)


def test_only_the_batchs_items_are_looked_at_where_they_are_few(folder, monkeypatch):
    """The loss of a few triples is the same whether the whole catalogue is computed or their items alone."""
    config, data, model = make(folder, train_batch_size=4, edges=None)
    with torch.no_grad():
        model.gates += 0.5
    batch = next(iter(train_loader(config, data)))
    found, looked = [], []
    graphs = model.interaction.graphs
    monkeypatch.setattr(model.interaction, "graphs", lambda content: looked.append(len(content)) or graphs(content))
    for everything in (False, True):
        if everything:
            monkeypatch.setattr(Rows, "needed", classmethod(lambda cls, wanted, size: cls(None)))
        torch.manual_seed(3)
        found.append([part.item() for part in model.eval().calculate_loss(batch)])
    assert looked[0] <= 8 < looked[1] == data.n_items
    # the penalty of the graphs is a mean over the items that a step looks at
    few, all_items = ([part for k, part in enumerate(parts) if k != 2] for parts in found)
    assert few == pytest.approx(all_items, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "mean"}, "choose item, shared, none"),
        ({"gnn_layers": 0}, "gnn_layers is 0"),
        ({"attention_heads": 3}, "take a multiple"),
        ({"integration": "sum"}, "choose product or residual"),
    ],
)
def test_wrong_settings_are_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(folder, **changes)


@pytest.mark.slow
def test_every_variant_of_the_ablation_is_another_model(folder):
    plan = read_ablation("EmerGLLMRec")
    found: dict[str, torch.Tensor] = {}
    for row in plan.rows:
        sizes = {"field_dim": 16, "graph_content_dim": 8, "graph_hidden": 8}
        config, data, model = build_on_checkerboard("EmerGLLMRec", folder, SMALL_LLMREC | sizes | row.settings)
        if model.interaction is not None:
            with torch.no_grad():
                model.gates += 0.3  # the branch shows from the first step on
        train(config, data, model, 3)
        found[row.label] = scores(config, data, model)
    assert len(found) == 24
    labels = list(found)
    for k, one in enumerate(labels):
        for other in labels[k + 1 :]:
            assert not torch.allclose(found[one], found[other], atol=1e-6), (one, other)


@pytest.mark.parametrize("preset", ["conservative", "aggressive", "debug"])
def test_presets_lie_over_the_defaults(preset):
    file = properties_dir() / "model" / f"EmerGLLMRec-{preset}.yaml"
    plain, config = (build_config("EmerGLLMRec", "ml-100k", files, {}, ()) for files in ((), [file]))
    wanted = {"conservative": (2, 2, 0.01, 0.1), "aggressive": (4, 8, 0.005, 0.2), "debug": (2, 2, 0.01, 0.1)}[preset]
    keys = ("gnn_layers", "attention_heads", "graph_reg_weight", "feature_interaction_weight")
    assert tuple(config[key] for key in keys) == wanted != tuple(plain[key] for key in keys)
    assert config["field_dim"] % config["attention_heads"] == 0
