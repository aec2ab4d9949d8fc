"""Quality of general recommenders on ml-100k under P3: random 8:1:1 by user, full ranking, five seeds.

    python benchmarks/quality_general.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-100k-general.yaml; every row's grid is searched on validation. Records are kept in
benchmarks/results/ml-100k-general/; a run is skipped while its record is valid, so a benchmark broken off goes on.
"""

import quality

if __name__ == "__main__":
    quality.main("ml-100k-general", __doc__, ["recall@10", "ndcg@10", "hit@10", "auc"])
