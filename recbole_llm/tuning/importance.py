"""How much of the variation among trials each setting explains, by Optuna's fANOVA."""

import math
from collections.abc import Mapping, Sequence

from recbole_llm.tuning.ledger import Trial, ranked
from recbole_llm.tuning.space import Domain

LEAST = 4  # trials with a score, below which nothing can be said


def importance(space: Mapping[str, Domain], trials: Sequence[Trial]) -> dict[str, float]:
    """Setting -> share of the variance of the score, the greatest first; empty where trials are too few or all equal.

    Hutter et al. 2014, http://proceedings.mlr.press/v32/hutter14.html: variance of a random forest's marginals. The
    same trials give the same shares.
    """
    import optuna

    scored = [t for t in ranked(trials) if math.isfinite(t.order)]
    varied = {key: d.optuna() for key, d in space.items() if len({str(t.point[key]) for t in scored}) > 1}
    if len(scored) < LEAST or not varied or len({t.order for t in scored}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in sorted(scored, key=lambda t: t.number):
        point = {key: trial.point[key] for key in varied}
        study.add_trial(optuna.create_trial(params=point, distributions=varied, value=trial.order))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}
