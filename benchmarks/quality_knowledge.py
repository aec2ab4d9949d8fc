"""Quality of models with a knowledge graph on ml-100k under P1: the last film of every user, full ranking.

    python benchmarks/quality_knowledge.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-100k-knowledge.yaml; grids are searched on validation. Records are kept in
benchmarks/results/ml-100k-knowledge/; a run is skipped while its record is valid, so a benchmark broken off goes on.
An epoch of LLMKGNews over 33,030 entities takes more than a minute on two cores: this one is for a GPU.
"""

import quality

if __name__ == "__main__":
    quality.main("ml-100k-knowledge", __doc__, ["ndcg@10", "hit@10", "recall@20"])
