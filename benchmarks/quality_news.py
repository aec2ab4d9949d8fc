"""Quality on news of Bing under P6: pooled AUC of shown titles that nobody has seen, with an interval over users.

    python benchmarks/quality_news.py [--jobs 2] [--docs] [--json]

It runs properties/compare/news-dkn.yaml on dataset/news-dkn/, which it converts and encodes from shared data where it
is not there; every row's grid is searched on validation. Records are kept in benchmarks/results/news-dkn/; a run is
skipped while its record is valid, so a benchmark broken off goes on.
"""

import prepared
import quality

if __name__ == "__main__":
    columns = ["pooled/auc", "pooled/auc_low", "pooled/auc_high", "pooled/gauc"]
    columns += ["pooled/log_loss", "pooled/base_rate_log_loss"]  # never the one without the other
    quality.main("news-dkn", __doc__, columns, prepared.news_dkn)
