"""One propagation over the training graph, forward and backward: RecBole's COO product against ours.

    python benchmarks/propagation.py            # .1 and 1.3 million edges, within a minute
    python benchmarks/propagation.py --full --out benchmarks/results/propagation.json    # and 2 million

A graph is random with popular items; its size is counted in interactions, of which each is two entries of the
adjacency. A side takes the mean of the vectors, 64 wide, and of their propagation by one layer, as its LightGCN does,
and then the gradient. The sides live in processes of their own and work in turn, medians after a warm-up; the largest
difference between their outputs and gradients is told.
"""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import measured
import numpy as np

DIM = 64
SIZES = {100_000: (943, 1_682), 1_300_000: (20_000, 10_000), 2_000_000: (40_000, 20_000)}  # edges: users, items


def graph(edges: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Distinct (user, item) pairs, ids from 1. Two [edges] int64, and U, N with [PAD]."""
    n_users, n_items = SIZES[edges]
    rng, found = np.random.default_rng(7), np.empty(0, dtype=np.int64)
    while len(found) < edges:
        users = rng.integers(0, n_users, edges)
        items = (n_items * rng.random(edges) ** 2).astype(np.int64)  # low ids are popular
        found = np.unique(np.append(found, users * n_items + items))
    found = rng.permutation(found)[:edges]
    return found // n_items + 1, found % n_items + 1, n_users + 1, n_items + 1


def serve(side: str, edges: int, out: str) -> None:
    """One side in this process; its output and gradient go to the file ``out`` once."""
    import torch

    from recbole_llm.model.graph import adjacency_of, layer_mean

    users, items, n_users, n_items = graph(edges)
    torch.manual_seed(0)
    x = torch.randn(n_users + n_items, DIM, requires_grad=True)
    gradient = torch.randn(n_users + n_items, DIM)
    csr = adjacency_of(users, items, n_users, n_items)
    if side == "ours":

        def propagate():
            return layer_mean(csr, x, 1)
    else:
        # as RecBole's LightGCN makes it in get_norm_adj_mat and uses it in forward
        coo = csr.to_sparse_coo()
        coo = torch.sparse_coo_tensor(coo.indices().long(), coo.values(), coo.shape, check_invariants=False)

        def propagate():
            return torch.stack([x, torch.sparse.mm(coo, x)], dim=1).mean(dim=1)

    written = False

    def work() -> dict:
        nonlocal written
        x.grad = None
        y = propagate()
        y.backward(gradient)
        if not written:
            np.savez(out, y=y.detach().numpy(), gradient=x.grad.numpy())
            written = True
        return {}

    measured.serve(work)


def run(sizes: list[int], repeats: int) -> dict:
    """Measure the sides in turn at every size."""
    found = []
    for edges in sizes:
        with tempfile.TemporaryDirectory(prefix="propagation_") as folder, ExitStack() as stack:
            files = {side: str(Path(folder) / f"{side}.npz") for side in ("recbole", "ours")}
            sides = {
                side: stack.enter_context(measured.Side(__file__, side, edges, file)) for side, file in files.items()
            }
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            peaks = dict.fromkeys(sides, 0)
            for turn in range(repeats + 1):  # the first warms up
                for side, process in sides.items():
                    answer = process.ask()
                    seconds[side] += [answer["seconds"]] if turn else []
                    peaks[side] = max(peaks[side], answer["peak_bytes"])
            outputs = {side: np.load(file) for side, file in files.items()}
        ours, theirs = (statistics.median(seconds[side]) for side in ("ours", "recbole"))
        difference = max(float(np.abs(outputs["ours"][k] - outputs["recbole"][k]).max()) for k in ("y", "gradient"))
        n_users, n_items = SIZES[edges]
        found.append(
            {"edges": edges, "nodes": n_users + n_items, "dim": DIM, "recbole_s": theirs, "ours_s": ours}
            | {"ratio": theirs / ours, "ours_peak_bytes": peaks["ours"], "recbole_peak_bytes": peaks["recbole"]}
            | {"max_abs_difference": difference}
        )
    return {"sizes": found, "repeats": repeats, "machine": measured.machine()}


def main() -> None:
    """Parse the command line, measure, report."""
    args = measured.arguments(__doc__, "also 2 million edges")
    record = run([edges for edges in SIZES if args.full or edges < 2_000_000], args.repeats)
    print(f"{'edges':>10}{'nodes':>9}{'RecBole s':>12}{'ours s':>10}{'ratio':>8}{'difference':>12}")
    for size in record["sizes"]:
        print(
            f"{size['edges']:>10,}{size['nodes']:>9,}{size['recbole_s']:>12.4f}{size['ours_s']:>10.4f}"
            f"{size['ratio']:>8.1f}{size['max_abs_difference']:>12.1e}"
        )
    measured.finish(record, args.out, args.json)


if __name__ == "__main__":
    child = measured.child_arguments()
    if child:
        serve(child[0], int(child[1]), child[2])
    else:
        main()
