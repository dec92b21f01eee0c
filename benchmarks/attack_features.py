"""Maps of inputs built against the bound of the kernels' features, against float64.

``python benchmarks/attack_features.py --device cuda`` makes 5,000 maps and prints, for each kind and path, how many
there were, the largest error as a share of the budget, and the largest error of a divergence as a share of what the
rule of the paths allows and the rounding of p takes. ``--device cpu`` with ``TRITON_INTERPRET=1`` goes through the
interpreter, slowly. Exits with 1 where a map is out of budget or a divergence off by more than that.

Patches of even number are the samples that the base is the mean of, all alike, so the others lie where they are put:
``p = b ((1 + s) / (1 - s))^2``, with the largest ``|s|`` where a set of features just serves.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import cdam_fast
from cdam_fast.testing import MAP_BUDGET, largest_error, oracle

KINDS = ("edges by turns", "one sign", "one class off", "the same everywhere", "nodes", "two groups", "uniform")
CLASSES = (2, 3, 5, 16, 17, 33, 101, 161, 1300)
ROUNDING = 2.0**-22  # of p over the base, which moves a divergence D by up to so much of its root
EXPONENTS = (-1.7, -0.35)  # of a reach; by less than 0.02 rows differ so little that float32 of p is all one sees
GRID = (4, 8)  # twice as many patches as samples
OPTIONS: dict[str, Any] = {"scales": (1.0,), "temperature": 1.0}


def positions(rng: np.random.Generator, kind: str, rows: int, classes: int) -> np.ndarray:
    """Where the rows of one attack lie from the base, up to a factor.  # [rows, classes]"""
    signs = rng.choice([-1.0, 1.0], (rows, classes))
    if kind == "edges by turns":
        return signs
    if kind == "one sign":  # the first class makes up for all others
        signs = np.ones((rows, classes)) * rng.choice([-1.0, 1.0], (rows, 1))
        signs[:, 0] *= -1
        return signs
    if kind == "one class off":
        s = rng.normal(0, 0.05, (rows, classes))
        s[np.arange(rows), rng.integers(classes, size=rows)] = signs[:, 0]
        return s
    if kind == "the same everywhere":  # equal sizes: rounding that does not average
        return signs * rng.uniform(0.2, 1, (rows, 1))
    if kind == "nodes":  # where what a polynomial leaves out is largest
        return rng.choice(np.cos(np.pi * np.arange(9) / 9), (rows, classes))
    if kind == "two groups":
        return np.where(np.arange(classes) % 2 == 0, 1.0, -1.0) * signs[:, :1]
    return rng.uniform(-1, 1, (rows, classes))


def attack(rng: np.random.Generator, kind: str, classes: int, reach: float) -> torch.Tensor:
    """Similarity ``[C, h, w]`` whose softmax at temperature 1 is the attack's distributions, float32."""
    base = rng.dirichlet(np.ones(classes) * rng.choice([0.5, 1.0, 100.0]))
    if kind == "one sign":
        base[0] += 1
    base = np.maximum(base, 0.3 / classes)
    base /= base.sum()
    wanted = positions(rng, kind, GRID[0] * GRID[1] // 2, classes)
    p = np.empty((GRID[0] * GRID[1], classes))
    p[::2] = base
    for row, s in zip(p[1::2], wanted):
        low, high = 0.0, 1 / np.abs(s).max()
        for _ in range(40):  # a row's sum is 1, which moves it: find the factor that ends at the edge
            factor = (low + high) / 2
            row[:] = base * ((1 + factor * s).clip(1e-6) / (1 - factor * s).clip(1e-6)) ** 2
            row /= row.sum()
            root, base_root = np.sqrt(row), np.sqrt(base)
            inside = np.abs((root - base_root) / (root + base_root)).max() < reach
            low, high = (factor, high) if inside else (low, factor)
    return torch.from_numpy(np.log(p)).float().T.reshape(classes, *GRID)


def batches(maps: int, size: int, seed: int, classes: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Kinds and numbers of classes by turns, a batch ``[B, C, h, w]`` each; half of all at the edge of a table."""
    rng = np.random.default_rng(seed)
    edges = (0.36, 0.45)
    made = 0
    while made < maps:
        kind, count = rng.choice(KINDS), int(rng.choice(classes))
        images = []
        for _ in range(min(size, maps - made)):
            reach = rng.choice(edges) * (1 - 1e-5) if rng.random() < 0.5 else 10 ** rng.uniform(*EXPONENTS)
            images.append(attack(rng, kind, count, reach))
        made += len(images)
        yield kind, torch.stack(images)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where the bound did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--maps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parsed = parser.parse_args(arguments)
    count: Counter[tuple[str, str]] = Counter()
    of_budget: dict[tuple[str, str], float] = {}
    of_allowed: dict[tuple[str, str], float] = {}
    for kind, similarity in batches(parsed.maps, parsed.batch, parsed.seed, parsed.classes):
        similarity = similarity.to(parsed.device)
        exact = oracle(similarity, device=parsed.device, **OPTIONS)
        found = cdam_fast.cdam_attention(similarity, backend="triton", **OPTIONS)
        p = similarity.flatten(2).mT.double().softmax(-1).float()
        divergence = cdam_fast.pairwise_divergence(p, backend="triton").double()
        true_divergence = cdam_fast.pairwise_divergence(p.double(), backend="reference")
        choices = cdam_fast.explain(similarity, **OPTIONS).of
        for image in range(len(similarity)):
            (choice,) = choices("triton", image)
            key = (kind, choice.path)
            count[key] += 1
            share = largest_error(found[image], exact[image]) / MAP_BUDGET
            of_budget[key] = max(of_budget.get(key, 0.0), share)
            if "features" in choice.path:
                true = true_divergence[image]
                share = largest_error(divergence[image], true) / (choice.allowed + ROUNDING * float(true.max()) ** 0.5)
                of_allowed[key] = max(of_allowed.get(key, 0.0), share)
    for key in sorted(count):
        allowed = f"{of_allowed[key]:.2f} of the bound's" if key in of_allowed else ""
        print(f"{key[0]:20} {key[1]:16} {count[key]:5} maps, {of_budget[key]:.3f} of the budget {allowed}")  # noqa: T201
    worst, most = max(of_budget.values()), max(of_allowed.values(), default=0.0)
    print(f"{parsed.maps} maps: at most {worst:.3f} of the budget, {most:.2f} of what is allowed")  # noqa: T201
    return int(not (worst <= 1 and most <= 1))


if __name__ == "__main__":
    sys.exit(main())
