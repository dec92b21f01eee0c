"""Other packages that compute the Jensen-Shannon divergence of all pairs, each called as its documentation has it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast import divergence, js_embedding, pairwise_divergence, reference
from cdam_fast.compat import compiled
from cdam_fast.jensen_shannon import Decision
from cdam_fast.measuring.measure import COMPILED, EAGER

OURS = "cdam_fast"

RTOL = 1e-5
"""Of the embedding that FAISS gets: the fewest features whose error stays below the budget."""


class Call(NamedTuple):
    """What is timed, its input already in the package's own arrays."""

    run: Callable[[], Any]
    how: str = ""
    """Which of its ways the package takes, where it has several."""


Convert = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Peer:
    """One way of one package to get the divergence of every pair."""

    name: str
    package: str
    module: str
    """What the package is imported as; empty for what comes with this one."""
    install: str
    """What pip installs it by."""
    dtype: torch.dtype
    returns: str
    """Its own definition."""
    prepare: Callable[[Tensor], Call]
    """Of distributions ``[N, C]`` in its dtype."""
    convert: Convert
    """What the call returned as the divergence in nats, ``[N, N]``."""
    cost: float
    """Its time, about, as a share of the eager code's; for the estimate alone."""
    devices: tuple[str, ...] = ("cpu",)
    compiles: bool = False
    """Whether a first call builds something, which is then no measurement."""

    @property
    def own(self) -> bool:
        """Whether it is of this package, the eager reference and its compilation included."""
        return not self.module

    def installed(self) -> bool:
        """Whether it can be imported, as far as that shows without importing it."""
        return self.own or importlib.util.find_spec(self.module) is not None

    def version(self) -> str:
        """Of the installed package; imports it."""
        for name in ("PYKEOPS_VERBOSE", "KEOPS_VERBOSE"):  # it says on stdout what it compiles
            os.environ.setdefault(name, "0")
        return str(getattr(importlib.import_module(self.module), "__version__", "unknown"))


# --- What is returned, as the divergence in nats --------------------------------------------------------------------


def of_divergence(result: Any) -> Tensor:
    """The divergence itself, in nats."""
    return torch.as_tensor(result)


def of_distance(result: Any) -> Tensor:
    """``sqrt JS``, in nats: the metric."""
    return torch.as_tensor(result).square()


def of_squared_distances(result: Any) -> Tensor:
    """``|e_i - e_j|^2 = 2 JS`` of the embedding."""
    return torch.as_tensor(result) / 2


def of_neighbours(result: Any) -> Tensor:
    """All N neighbours of each row, nearest first: squared distances of the embedding, and their rows."""
    squared, rows = (torch.as_tensor(part) for part in result)
    return squared.new_full((len(rows), len(rows)), torch.nan).scatter_(1, rows, squared / 2)


# --- This package, and the code that it is measured against ---------------------------------------------------------


def _ours(p: Tensor, backend: str) -> Call:
    decisions: list[Decision] = []
    if backend == "portable":
        divergence.pairwise_divergence(p, decisions=decisions)
    how = "".join(f"{one.path}, rank {one.rank}" if one.rank else one.path for one in decisions)
    return Call(partial(pairwise_divergence, p, backend=backend), how)


def _eager(p: Tensor) -> Call:
    return Call(partial(reference.pairwise_divergence, p))


def _compiled(p: Tensor) -> Call:
    return Call(partial(compiled(reference.pairwise_divergence), p))


# --- Other packages -------------------------------------------------------------------------------------------------


def _fastjsd(p: Tensor) -> Call:
    import fastjsd
    import numpy as np

    rows = p.numpy()
    threads = torch.get_num_threads() if importlib.util.find_spec("numba") else None
    options = {"base": np.e, "squared": True, "normalize": False, "check": False, "threads": threads}
    return Call(partial(fastjsd.jsd_matrix, rows, **options), fastjsd.resolve_backend("auto", rows))


def _scipy_cdist(p: Tensor) -> Call:
    from scipy.spatial import distance

    return Call(partial(distance.cdist, p.numpy(), p.numpy(), "jensenshannon"))


def _scipy_pdist(p: Tensor) -> Call:
    from scipy.spatial import distance

    rows = p.numpy()
    return Call(lambda: distance.squareform(distance.pdist(rows, "jensenshannon")))


def _keops(p: Tensor) -> Call:
    from pykeops.torch import LazyTensor

    count, classes = p.shape
    terms = torch.xlogy(p, p)

    def run() -> Tensor:
        # a reduction gives one row each: the batch is over i, and the sum over a dim of length 1 leaves every pair
        x, x_term = (LazyTensor(part.view(count, 1, 1, classes)) for part in (p, terms))
        y, y_term = (LazyTensor(part.view(1, count, 1, classes)) for part in (p, terms))
        mean = (x + y) / 2
        pairs = (x_term + y_term - 2 * mean.xlogx()).sum(-1) / 2
        result: Tensor = pairs.sum(2).reshape(count, count)
        return result

    return Call(run)


def _faiss(p: Tensor) -> Any:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _faiss_flat(p: Tensor) -> Call:
    faiss = _faiss(p)

    def run() -> Any:
        points = js_embedding(p, p.mean(0), rtol=RTOL).numpy()
        index = faiss.IndexFlatL2(points.shape[1])
        index.add(points)
        return index.search(points, len(points))

    return Call(run)


def _faiss_pairs(p: Tensor) -> Call:
    faiss = _faiss(p)

    def run() -> Any:
        points = js_embedding(p, p.mean(0), rtol=RTOL).numpy()
        return faiss.pairwise_distances(points, points)

    return Call(run)


def _faiss_metric(p: Tensor) -> Call:
    faiss = _faiss(p)
    rows = p.numpy()
    return Call(partial(faiss.pairwise_distances, rows, rows, faiss.METRIC_JensenShannon))


def _cuvs(p: Tensor) -> Call:
    from cuvs.distance import pairwise_distance

    result = p.new_empty(len(p), len(p))

    def run() -> Tensor:
        pairwise_distance(p, p, out=result, metric="jensenshannon")
        return result

    return Call(run)


_SINGLE, _DOUBLE = torch.float32, torch.float64
_BOTH = ("cpu", "cuda")
_JS, _ROOT = "JS, nats", "sqrt(JS), nats"
_OURS = (OURS, "", "")
_FASTJSD = ("fastjsd", "fastjsd", '"fastjsd[numba]"')
_SCIPY = ("SciPy", "scipy", "scipy")
_KEOPS = ("KeOps", "pykeops", "pykeops")
_FAISS = ("FAISS", "faiss", "faiss-cpu")
_CUVS = ("cuVS", "cuvs", "cuvs-cu12")

PEERS = (
    Peer("portable", *_OURS, _SINGLE, _JS, partial(_ours, backend="portable"), of_divergence, 0.05, _BOTH),
    Peer("portable", *_OURS, _DOUBLE, _JS, partial(_ours, backend="portable"), of_divergence, 0.3, _BOTH),
    Peer("triton", *_OURS, _SINGLE, _JS, partial(_ours, backend="triton"), of_divergence, 0.01, ("cuda",), True),
    Peer(EAGER, *_OURS, _SINGLE, _JS, _eager, of_divergence, 1.0, _BOTH),
    Peer(COMPILED, *_OURS, _SINGLE, _JS, _compiled, of_divergence, 0.2, _BOTH, True),
    Peer("fastjsd", *_FASTJSD, _SINGLE, _JS, _fastjsd, of_divergence, 0.3, compiles=True),
    Peer("fastjsd", *_FASTJSD, _DOUBLE, _JS, _fastjsd, of_divergence, 0.3, compiles=True),
    Peer("SciPy cdist", *_SCIPY, _DOUBLE, _ROOT, _scipy_cdist, of_distance, 1.5),
    Peer("SciPy pdist, squareform", *_SCIPY, _DOUBLE, _ROOT, _scipy_pdist, of_distance, 0.8),
    Peer("KeOps", *_KEOPS, _SINGLE, _JS, _keops, of_divergence, 0.4, _BOTH, True),
    Peer("KeOps", *_KEOPS, _DOUBLE, _JS, _keops, of_divergence, 1.0, _BOTH, True),
    Peer("FAISS flat, embedding", *_FAISS, _SINGLE, "2 JS, nats", _faiss_flat, of_neighbours, 0.15),
    Peer("FAISS pairs, embedding", *_FAISS, _SINGLE, "2 JS, nats", _faiss_pairs, of_squared_distances, 0.1),
    Peer("FAISS pairs, its JS", *_FAISS, _SINGLE, _JS, _faiss_metric, of_divergence, 1.5),
    Peer("cuVS", *_CUVS, _SINGLE, _ROOT, _cuvs, of_distance, 0.1, ("cuda",)),
)
"""Everything that is measured, in the order of the table."""
