"""Quality of general recommenders on MovieLens 1M under P3: random 8:1:1 by user, full ranking, plots and descriptions.

    python benchmarks/quality_ml_1m.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-1m-general.yaml on dataset/ml-1m/, which it converts and encodes from shared data where it
is not there; every row's grid is searched on validation. Records are kept in benchmarks/results/ml-1m-general/; a run
is skipped while its record is valid, so a benchmark broken off goes on.
"""

import prepared
import quality

if __name__ == "__main__":
    quality.main("ml-1m-general", __doc__, ["recall@10", "ndcg@10", "hit@10", "auc"], prepared.ml_1m)
