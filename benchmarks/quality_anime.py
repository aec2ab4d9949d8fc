"""Quality of general recommenders on Anime under P3: random 8:1:1 by user, full ranking, names and genres as text.

    python benchmarks/quality_anime.py [--jobs 2] [--docs] [--json]

It runs properties/compare/anime-general.yaml on dataset/anime/, which it converts and encodes from shared data where it
is not there; every row's grid is searched on validation. Records are kept in benchmarks/results/anime-general/; a run
is skipped while its record is valid, so a benchmark broken off goes on.
"""

import prepared
import quality

if __name__ == "__main__":
    quality.main("anime-general", __doc__, ["recall@10", "ndcg@10", "hit@10", "auc"], prepared.anime)
