"""SASRecAll: the contract, and training at all positions against scoring each prefix alone."""

import torch
import torch.nn.functional as F
from contract import SequentialContract
from recbole.data.interaction import Interaction
from synthetic import SMALL_SASREC

from recbole_llm.experiment.data import train_loader


class TestSASRecAll(SequentialContract):
    model = "SASRecAll"
    config = SMALL_SASREC

    def test_loss_is_that_of_each_prefix_scored_alone(self, folder):
        """So no position sees its target or anything later."""
        config, data, model = self.build(folder)
        torch.nn.init.normal_(model.item_bias)
        batch = next(iter(train_loader(config, data)))
        model.double().eval()
        expected = []
        for items, targets in zip(batch["item_id_list"], batch["target_list"], strict=True):
            for t in range(int((targets > 0).sum())):
                prefix = items.clone()
                prefix[t + 1 :] = 0
                inputs = Interaction({"item_id_list": prefix[None], "item_length": torch.tensor([t + 1])})
                logits = model.full_sort_predict(inputs)[:, 1:]
                expected.append(F.cross_entropy(logits, targets[t : t + 1] - 1))
        torch.testing.assert_close(model.calculate_loss(batch), torch.stack(expected).mean())

    def test_all_items_as_negatives_give_the_full_softmax(self, folder):
        losses = []
        for num_negatives in (None, 10_000):
            config, data, model = self.build(folder, num_negatives=num_negatives)
            losses.append(model.eval().calculate_loss(next(iter(train_loader(config, data)))))
        torch.testing.assert_close(*losses)


class TestWithSampledNegatives(SequentialContract):
    model = "SASRecAll"
    config = SMALL_SASREC | {"num_negatives": 8}
