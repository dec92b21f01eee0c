"""Nearest neighbours by the Jensen-Shannon divergence among 100,000 distributions: exact, by indexes on the embedding
of `cdam_fast.js_embedding`, and by PyNNDescent's own metric.

    pip install faiss-cpu pynndescent
    python benchmarks/nearest_neighbours.py --out benchmarks/results/nearest-neighbours.json

One thread everywhere; times are CPU seconds of this process, which other programs of the machine do not lengthen much.
Exact neighbours are those of the divergence in float64. Prints a Markdown table for each kind of distribution.
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # read when the libraries below are imported

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import pynndescent  # noqa: E402
import torch  # noqa: E402

from cdam_fast import js_embedding, pairwise_divergence  # noqa: E402

NEIGHBOURS = 10


def clip_like(count, classes, generator):
    """Zero-shot predictions: softmax of 100 cosines of spread 0.03, by 24 factors about 300 centres."""
    centres = torch.randn(300, 24, generator=generator)
    factors = centres[torch.randint(300, (count,), generator=generator)]
    factors = factors + 0.5 * torch.randn(count, 24, generator=generator)
    loadings = torch.randn(24, classes, generator=generator)
    cosines = 0.2 + 0.03 * (factors @ loadings) / (24 * 1.25) ** 0.5
    return torch.softmax(100 * cosines, -1)


def topics(count, classes, generator):
    """Documents over topics: Dirichlet of 0.1, most of a row in a few topics and down to 0."""
    concentrations = torch.full((count, classes), 0.1, dtype=torch.float64)
    return torch._sample_dirichlet(concentrations, generator=generator).float()


KINDS = {"clip-like": clip_like, "topics": topics}


def timed(function, *arguments):
    start = time.process_time()
    return function(*arguments), time.process_time() - start


def exact(queries, database):
    """Ids of the nearest, from the divergence in float64, some queries at a time."""
    found = []
    for block in queries.split(20):
        divergence = pairwise_divergence(block.double(), database)
        found.append(divergence.topk(NEIGHBOURS, largest=False).indices)
    return torch.cat(found).numpy()


def index_of(kind, dimensions):
    if kind == "Flat":
        return faiss.IndexFlatL2(dimensions)
    if kind == "HNSW32":
        index = faiss.IndexHNSWFlat(dimensions, 32)
        index.hnsw.efSearch = 64
        return index
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dimensions), dimensions, 316)
    index.nprobe = 16
    return index


def build(index, points):
    if not index.is_trained:
        index.train(points[:20_000])
    index.add(points)


def by_faiss(kind, queries, database, rtol):
    base = database.mean(0)

    def embed(rows):
        return js_embedding(rows, base, rtol=rtol).numpy()

    points, embedding = timed(embed, database)
    index = index_of(kind, points.shape[1])
    _, building = timed(build, index, points)
    (_, found), querying = timed(lambda: index.search(embed(queries), NEIGHBOURS))
    name = f"FAISS {kind} on the embedding"
    return (
        found,
        {"name": name, "rtol": rtol, "K": points.shape[1], "embed_s": embedding, "build_s": building},
        querying,
    )


def by_pynndescent(queries, database):
    def make(rows):
        index = pynndescent.NNDescent(rows, metric="jensen_shannon", n_neighbors=30, random_state=0, n_jobs=1)
        index.prepare()
        return index

    make(database[:5000].numpy()).query(queries[:2].numpy(), k=NEIGHBOURS)  # compiles
    index, building = timed(make, database.numpy())
    (found, _), querying = timed(lambda: index.query(queries.numpy(), k=NEIGHBOURS))
    return found, {"name": "PyNNDescent, its metric jensen_shannon", "build_s": building}, querying


def measure(kind, options):
    generator = torch.Generator().manual_seed(0)
    rows = KINDS[kind](options.count + options.queries, options.classes, generator)
    database, queries = rows[: options.count], rows[options.count :]
    expected, seconds = timed(exact, queries, database.double())
    per_query = seconds * 1e3 / options.queries
    results = [{"name": "every divergence, float64", "recall": 1.0, "build_s": 0.0, "query_ms": per_query}]
    runs = [(by_faiss, index, queries, database, rtol) for index, rtol in options.indexes]
    if not options.no_peer:
        runs.append((by_pynndescent, queries, database))
    for function, *arguments in runs:
        found, result, seconds = function(*arguments)
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(found, expected))
        result.update(recall=hits / expected.size, query_ms=seconds * 1e3 / options.queries)
        results.append(result)
        sys.stderr.write(f"{kind}: {result}\n")
    return results


def table(results):
    lines = ["| neighbours by | K | recall@10 | embed, s | build, s | a query, ms |", "|---|---:|---:|---:|---:|---:|"]
    for one in results:
        name = one["name"] + (f", rtol {one['rtol']:g}" if "rtol" in one else "")
        embed = f"{one['embed_s']:.1f}" if "embed_s" in one else ""
        numbers = f"{one['recall']:.3f} | {embed} | {one['build_s']:.1f} | {one['query_ms']:.2f}"
        lines.append(f"| {name} | {one.get('K', '')} | {numbers} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--no-peer", action="store_true", help="leave out PyNNDescent, which takes minutes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.indexes = (("Flat", 1e-3), ("Flat", 5e-3), ("IVF316", 5e-3), ("HNSW32", 5e-3))
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    report = {
        "host": {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "threads": 1},
        "versions": {name: version(name) for name in ("torch", "numpy", "faiss-cpu", "pynndescent")},
        "python": platform.python_version(),
        **{name: getattr(options, name) for name in ("count", "queries", "classes")},
        "results": {},
    }
    for kind in options.kinds:
        report["results"][kind] = measure(kind, options)
        sys.stdout.write(f"\n{kind}: {KINDS[kind].__doc__}\n\n{table(report['results'][kind])}\n")
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
