"""Quality on cold items of ml-100k that warm up, under P5: labelled rows scored cold and after 20, 40 and 60 ratings.

    python benchmarks/quality_phases.py [--jobs 2] [--docs] [--json]

It runs properties/compare/ml-100k-phases.yaml; every row's grid is searched on validation. Records are kept in
benchmarks/results/ml-100k-phases/; a run is skipped while its record is valid, so a benchmark broken off goes on.
"""

import quality

if __name__ == "__main__":
    quality.main("ml-100k-phases", __doc__, ["cold/auc", "warm-a/auc", "warm-b/auc", "warm-c/auc", "warm-c/f1"])
