"""Quality of LLMRec and EmerGLLMRec on ml-100k under P3: random 8:1:1 by user, full ranking.

    python benchmarks/quality_emerg.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-100k-emerg.yaml; every row's grid is searched on validation. Records are kept in
benchmarks/results/ml-100k-emerg/; a run is skipped while its record is valid, so a benchmark broken off goes on.
"""

import quality

if __name__ == "__main__":
    quality.main("ml-100k-emerg", __doc__, ["recall@20", "ndcg@20", "recall@10", "ndcg@10"])
