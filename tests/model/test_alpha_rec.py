"""AlphaRec: the contract, and its vectors, loss and missing texts against naive loops."""

import math

import numpy as np
import torch
from contract_general import GeneralContract
from synthetic import N_ITEMS, write_checkerboard

from recbole_llm.model.content import joined_features


class TestAlphaRec(GeneralContract):
    model = "AlphaRec"
    # 26 items do not tell much about the directions of whitening
    config = {"embedding_size": 8, "hidden_size": 8, "whiten": "none", "num_negatives": 10}
    scores_cold_items = True

    def test_vectors_equal_a_naive_loop(self, folder):
        config, data, model = self.build(folder)
        self.fit(config, data, model, 2)
        users, items = model()
        text = joined_features(data.train, config["item_features"], config["whiten"], config["text_dim"])[0]
        inter = data.train.inter_feat
        edges = list(zip(inter["user_id"].tolist(), inter["item_id"].tolist(), strict=True))
        n_users, n = data.base.user_num, data.base.user_num + data.n_items
        layer = []
        for node in range(n):
            if node >= n_users:
                z, there = text[node - n_users], node > n_users
            else:
                mine = [text[i] for u, i in edges if u == node]
                z, there = torch.stack(mine).mean(0) if mine else text[0], bool(mine)
            layer.append(model.mlp(z) if there else torch.zeros(8))
        neighbours = {node: [] for node in range(n)}
        for u, i in edges:
            neighbours[u].append(n_users + i)
            neighbours[n_users + i].append(u)
        total = [v.clone() for v in layer]
        for _ in range(config["n_layers"]):
            layer = [
                sum(
                    (layer[m] / math.sqrt(len(neighbours[m]) * len(neighbours[node])) for m in neighbours[node]),
                    torch.zeros(8),
                )
                for node in range(n)
            ]
            total = [a + b for a, b in zip(total, layer, strict=True)]
        expected = torch.stack([v / v.norm().clamp(min=1e-12) for v in total])
        torch.testing.assert_close(torch.cat([users, items]), expected, rtol=1e-4, atol=1e-5)

    def test_loss_is_the_softmax_when_all_items_are_negatives(self, folder):
        config, data, model = self.build(folder, num_negatives=N_ITEMS + 2)
        inter = data.train.inter_feat[:16]
        scores = model.full_sort_predict(inter) / config["temperature"]
        loss = -torch.log_softmax(scores[:, 1:], 1)[torch.arange(16), inter["item_id"] - 1].mean()
        torch.testing.assert_close(model.calculate_loss(inter), loss, rtol=1e-5, atol=1e-5)

    def test_items_without_text_do_not_count_in_a_mean_and_start_from_nothing(self, tmp_path):
        without = (3, N_ITEMS)  # a used item and one that nobody used
        rows = np.delete(np.arange(N_ITEMS + 2), without)
        config, data, model = self.build(write_checkerboard(tmp_path, file_order=rows), n_layers=0)
        text = joined_features(data.train, config["item_features"], config["whiten"], config["text_dim"])[0]
        used, unused = (data.base.field2token_id["item_id"][f"i{k}"] for k in without)
        inter = data.train.inter_feat
        user = int(inter["user_id"][inter["item_id"] == used][0])
        mine = [i for u, i in zip(inter["user_id"], inter["item_id"], strict=True) if u == user and i != used]
        torch.testing.assert_close(model.text[user], text[torch.stack(mine)].mean(0))
        users, items = model()
        assert not items[used].any() and not items[unused].any() and items[1].any()
        _, _, deep = self.build(tmp_path)  # with the graph, its users tell what the used one is
        users, items = deep()
        assert items[used].any() and not items[unused].any()

    def test_vectors_are_kept_in_eval_mode_until_loading(self, folder):
        config, data, model = self.build(folder)
        model.eval()
        first = model.scoring_vectors()[0]
        assert model.scoring_vectors()[0] is first and not first.requires_grad
        model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})  # still in eval mode
        assert not torch.allclose(model.scoring_vectors()[0], first)
        model.train()
        assert model.scoring_vectors()[0] is not model.scoring_vectors()[0]
