"""Quality of LLMRec and EmerGLLMRec on cold items of ml-100k under P4, ranked among themselves and among all.

    python benchmarks/quality_emerg_cold.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-100k-emerg-cold.yaml; every row's grid is searched on validation. Records are kept in
benchmarks/results/ml-100k-emerg-cold/; a run is skipped while its record is valid, so a benchmark broken off goes on.
"""

import quality

if __name__ == "__main__":
    quality.main("ml-100k-emerg-cold", __doc__, ["recall@10", "ndcg@10", "auc", "all/ndcg@10"])
