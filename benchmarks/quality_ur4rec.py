"""Quality of UR4RecMoE against its backbone, its controls and cheap baselines, on ml-100k under P1 and P2.

    python benchmarks/quality_ur4rec.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-100k-sequential.yaml: one split, mask and list of candidates for every row, grids searched
on validation, five seeds, the test rows read once a run, differences tested over users. Records are kept in
benchmarks/results/ml-100k-sequential/; a run is skipped while its record is valid, so a benchmark broken off goes on.
"""

import quality

if __name__ == "__main__":
    quality.main("ml-100k-sequential", __doc__, ["hit@10", "ndcg@10", "mrr@10", "full/ndcg@10"])
