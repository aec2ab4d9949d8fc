"""Recommendations of a trained model to the users of its dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from recbole.utils import ModelType
from torch import Tensor

from recbole_llm.data.atomic import read_types
from recbole_llm.errors import CheckpointError, ConfigError, DataError
from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.evaluation.task import EvalTask
from recbole_llm.experiment import load
from recbole_llm.experiment.audit import TITLES, item_titles
from recbole_llm.experiment.run import BEST_FILE
from recbole_llm.registry import did_you_mean
from recbole_llm.trainer.eval_data import EvalData
from recbole_llm.trainer.fold_in import fold_in

HISTORIES = ("all", "known", "train")
_SCORES_AT_ONCE = 4 * 1024 * 1024  # 16 MiB of float32 a copy
_COMPARED = 20_000  # an unknown token is compared with so many known ones: difflib is slow


class Recommender:
    """A trained model, the history that it reads of each user, and what it must not recommend to him.

    Attributes:
        model: in eval mode. Models that score a user by his row of interactions are folded in, as for a test.
        data: RecData that it was trained on.
        history: "all": users are known by all that they have used, as one deploys a model. "known": by the training and
            validation rows alone, as in the evaluation on test rows, so that the lists can be scored. "train": by the
            training rows alone, so that what is made from the lists knows no held-out row.
    """

    def __init__(self, model, data, history: str = "all", title: str = "") -> None:
        """Args:
            model, data: from :func:`~recbole_llm.experiment.load`; "all" opens the test rows of data.
            title: column of ``<dataset>.item``; "": one that is called so, where there is one.
        Raises:
            ConfigError: for another history, or a title column that does not exist.
        """
        if history not in HISTORIES:
            raise ConfigError(f"history is '{history}'; choose {' or '.join(HISTORIES)}")
        self.model, self.data, self.history = model.eval(), data, history
        self.titles = titles_of(data.config, title)
        parts = [data.split.train]
        if history != "train":
            parts.append(data.split.valid)
        if history == "all":
            parts.append(data.split.open_test())
        self._rows = np.concatenate(parts)
        # what min_rating drops is no history that the model knows how to read, but the user has had it
        seen = np.arange(len(data.user_ids)) if history == "all" else self._rows
        pairs = (data.user_ids[seen], data.item_ids[seen])
        self._seen = sp.csr_matrix((np.ones(len(seen), dtype=bool), pairs), shape=(data.base.user_num, data.n_items))
        fold_in(model, data.subset(self._rows))

    @classmethod
    def from_run(cls, run: str | Path, history: str = "all", title: str = "") -> "Recommender":
        """The recommender of a run folder, or of a file in it such as ``best.pt``.

        Raises:
            CheckpointError: for anything else, weights that were not the chosen ones, or a run that does not fit its
                data any more.
        """
        path = Path(run)
        if path.is_file():
            if path.suffix == ".pt" and path.name != BEST_FILE:
                raise CheckpointError(
                    f"{path} does not hold the weights that the run chose; name {BEST_FILE} or the run folder"
                )
            path = path.parent
        return cls(*load(path), history=history, title=title)

    @property
    def user_tokens(self) -> np.ndarray:
        """Token of every user id, row 0 [PAD]. [n_users] str."""
        return self.data.base.field2id_token[self.data.base.uid_field]

    @property
    def item_tokens(self) -> np.ndarray:
        """Token of every item id, row 0 [PAD]. [n_items] str."""
        return self.data.base.field2id_token[self.data.base.iid_field]

    def user_ids(self, users: Sequence[str] | None = None) -> np.ndarray:
        """Ids of user tokens, each once, in the order given; None: of all users. [n] int64.

        Raises:
            DataError: for a user that the dataset does not have, or when none is named.
        """
        if users is None:
            return np.arange(1, len(self.user_tokens))
        id_of = self.data.base.field2token_id[self.data.base.uid_field]
        tokens = list(dict.fromkeys(str(user) for user in users))
        if not tokens:
            raise DataError("no user is named; name some, or leave them out to have all users")
        unknown = [token for token in tokens if not id_of.get(token)]  # 0 is [PAD]
        if unknown:
            known = [str(token) for token in self.user_tokens[1:]]
            hint = did_you_mean(unknown[0], known[:_COMPARED]) or f"; its users are called like '{known[0]}'"
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise DataError(f"dataset '{self.data.config['dataset']}' has no user '{unknown[0]}'{more}{hint}")
        return np.array([id_of[token] for token in tokens], dtype=np.int64)

    def scorer(self, user_ids: np.ndarray) -> Callable[[np.ndarray], Tensor]:
        """Function from positions in ``user_ids`` to scores of all items, nothing masked. [b] -> [b, n_items] float32.

        Raises:
            ConfigError: for a model that reads columns of an interaction that has not happened yet.
        """
        data, config = self.data, self.data.config
        inputs, item_inputs = data.histories(user_ids, self._rows), data.train.get_item_feature()
        if config["MODEL_TYPE"] == ModelType.CONTEXT:
            kinds = ("token", "float", "token_seq", "float_seq")
            fields = [name for kind in kinds for name in getattr(self.model, f"{kind}_field_names", [])]
            missing = [name for name in fields if name not in inputs and name not in item_inputs]
            if missing:
                raise ConfigError(
                    f"{config['model']} reads '{missing[0]}' of an interaction, which nobody knows beforehand; train "
                    "it without that column (load_col)"
                )
        return EvalData(
            tasks=[self._task(user_ids)],
            inputs=inputs,
            item_inputs=item_inputs,
            item_counts=data.item_counts,
            known_dataset=lambda: data.subset(self._rows),
            metrics=[],
            topk=[],
            batch_size=config["eval_batch_size"],
        ).scorer(self.model, config["device"])

    def recommend(
        self,
        users: Sequence[str] | None = None,
        topk: int = 20,
        progress: Callable[[int], object] | None = None,
    ) -> pd.DataFrame:
        """The items that the model puts on top, those that the user has used left out.

        Equal scores are ordered as the evaluation orders them. A user with fewer items left gets fewer rows.

        Args:
            users: tokens; None: all users of the dataset.
            topk: items a user at most, >= 1.
            progress: called with the number of users done since the last call.
        Returns:
            Columns user (str), rank (int64, 1 is best), item (str), score (float32) and, where the items have titles,
            title (str or None), sorted by user in the order given and rank.
        Raises:
            ConfigError: topk < 1, or see :meth:`scorer`. DataError: an unknown user, or scores that are NaN.
        """
        if topk < 1:
            raise ConfigError(f"topk must be at least 1, not {topk}")
        wanted = self.user_ids(users)
        ids, place = np.unique(wanted, return_inverse=True)
        items, scores = self._top(ids, min(topk, self.data.n_items - 1), progress)
        items, scores = items[place], scores[place]
        rows, ranks = np.nonzero(items)  # 0: nothing left
        frame = pd.DataFrame(
            {
                "user": self.user_tokens[wanted[rows]].astype(object),
                "rank": ranks + 1,
                "item": self.item_tokens[items[rows, ranks]].astype(object),
                "score": scores[rows, ranks],
            }
        )
        if self.titles is not None:
            frame["title"] = pd.Series([self.titles.get(item) for item in frame["item"]], dtype=object)
        return frame

    @torch.no_grad()
    def _top(self, user_ids: np.ndarray, k: int, progress) -> tuple[np.ndarray, np.ndarray]:
        """Best items, 0 where none is left, and their scores. [n] ascending -> [n, k] int64, [n, k] float32."""
        items = np.zeros((len(user_ids), k), dtype=np.int64)
        scores = np.zeros((len(user_ids), k), dtype=np.float32)
        score, step = self.scorer(user_ids), max(1, _SCORES_AT_ONCE // self.data.n_items)
        for start in range(0, len(user_ids), step):
            rows = np.arange(start, min(start + step, len(user_ids)))
            batch = score(rows)  # [b, n_items]
            items[rows] = self._ranked(user_ids[rows], batch, k)
            scores[rows] = batch.gather(1, torch.from_numpy(items[rows]).to(batch.device)).cpu().numpy()
            if progress is not None:
                progress(len(rows))
        return items, scores

    def _ranked(self, user_ids: np.ndarray, scores: Tensor, k: int) -> np.ndarray:
        """The evaluation's ranking of one batch. [b], [b, n_items] -> [b, k] int64."""
        seen = torch.from_numpy(self._seen[user_ids].toarray()).to(scores.device)
        if (scores.masked_fill(seen, -torch.inf)[:, 1:] == -torch.inf).all():
            return np.zeros((len(user_ids), k), dtype=np.int64)  # an error to the kernel, an empty list here
        task = self._task(user_ids)
        return evaluate(task, lambda _: scores, metrics=["hit"], topk=[k], batch_size=len(task)).top_items

    def _task(self, user_ids: np.ndarray) -> EvalTask:
        """A ranking of all items for these users, in which [PAD], which is never recommended, is all that is wanted."""
        seen = self._seen[user_ids]
        return EvalTask(
            name="recommend",
            part="test",
            user_ids=user_ids,
            n_items=self.data.n_items,
            pos_indptr=np.arange(len(user_ids) + 1),
            pos_items=np.zeros(len(user_ids), dtype=np.int64),
            mask_indptr=seen.indptr.astype(np.int64),
            mask_items=seen.indices.astype(np.int64),
            candidates=None,
            fingerprint=self.data.split.fingerprint,
        )


def recommend(
    run_folder: str | Path, topk: int = 20, users: Sequence[str] | None = None, history: str = "all"
) -> pd.DataFrame:
    """Recommendations of a trained model.

    Args:
        run_folder: of a finished run.
        topk: items a user at most, >= 1.
        users: tokens; None: all users of the dataset.
        history: "all": users are known by all that they have used. "known": by the training and validation rows.
    Returns:
        Columns user, rank (1 is best), item, score and, where the items have titles, title.
    Raises:
        RecBoleLLMError: for a folder that holds no finished run, an unknown user, or wrong arguments.
    """
    return Recommender.from_run(run_folder, history).recommend(users, topk)


def titles_of(config, column: str = "") -> dict[str, str] | None:
    """Item -> title, None for a dataset without; column: of ``<dataset>.item``, "": one that is called so."""
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if column or (path.is_file() and not set(TITLES).isdisjoint(read_types(path))):
        return item_titles(path, column)
    return None
