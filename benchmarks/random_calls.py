"""Random calls against float64: shapes, strides, dtypes, metrics, orders, temperatures, degenerate inputs.

``python benchmarks/random_calls.py`` makes 20,000 calls, prints what is out of budget, and exits with 1 where anything
is. Where float64 itself gives another map for the classes in reverse, for cosines all larger by the same or for an
image alone, it is no oracle: such calls are counted apart. ``--backend triton`` goes through the kernels on a GPU, or
interpreted with ``TRITON_INTERPRET=1``, slowly.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import cdam_fast
from cdam_fast.constants import METRICS, ORDERS, SCALES
from cdam_fast.testing import DEGENERATE, clip_like, degenerate, largest_error, map_budget, oracle

KINDS = ("clip-like", "peaked", *DEGENERATE)
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64)


def random_similarity(choose: random.Random) -> tuple[str, Tensor]:
    """A kind and ``[..., C, h, w]`` of it: none to two leading dims, any dtype, contiguous or not."""
    kind = choose.choice(KINDS)
    classes = choose.choice((1, 2, 3, 5, 11, 41, 101))
    height, width = choose.randint(1, 14), choose.randint(1, 14)
    batch = choose.choice(((), (), (1,), (2,), (2, 1)))
    images = []
    for _ in range(torch.Size(batch).numel()):
        seed = choose.randrange(10**9)
        if kind in DEGENERATE:
            images.append(degenerate(kind, classes, height, width, seed=seed))
        else:
            spread = 10 ** choose.uniform(-0.5, 0.5) if kind == "peaked" else 10 ** choose.uniform(-2, -1)
            images.append(clip_like(classes, height, width, spread=spread, seed=seed))
    similarity = torch.stack(images).reshape(*batch, classes, height, width).to(choose.choice(DTYPES))
    strides = choose.choice(("contiguous", "classes last", "every second"))
    if strides == "classes last":
        similarity = similarity.movedim(-3, -1).contiguous().movedim(-1, -3)
    elif strides == "every second":
        similarity = similarity.repeat_interleave(2, -1)[..., ::2]
    return kind, similarity


def random_options(choose: random.Random, height: int, width: int) -> dict[str, Any]:
    """Options that leave a patch at every scale."""
    scales = [scale for scale in (*SCALES, 1.5) if int(min(height, width) * scale) > 0]
    return {
        "scales": tuple(choose.sample(scales, min(len(scales), choose.randint(1, 3)))),
        "temperature": choose.choice((0.03, 0.1, 0.1, 0.1, 0.5)),
        "attention_temperature": choose.choice((0.05, 0.1, 0.1, 0.3, 1.0)),
        "metric": choose.choice(("js", *METRICS)),
        "order": choose.choice(ORDERS),
        "minmax": (choose.random() < 0.75, choose.random() < 0.75),
    }


def _is_undecided(similarity: Tensor, exact: Tensor, most: float, options: dict[str, Any]) -> bool:
    """Whether the float64 map moves by more than this where exact arithmetic would see no difference."""
    same = (similarity.flip(-3), similarity.double() + 1 / 3, similarity.double() - 1 / 7)
    maps = [oracle(one, **options) for one in same]
    images = similarity.reshape(-1, *similarity.shape[-3:])
    maps.append(torch.stack([oracle(image, **options) for image in images]).reshape_as(exact))
    return any(largest_error(one, exact) > most for one in maps)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where a call was out of budget."""
    parser = argparse.ArgumentParser(description="Random calls against float64.")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="portable", choices=("portable", "triton"))
    parser.add_argument("--device", default="cpu")
    parsed = parser.parse_args(arguments)
    choose = random.Random(parsed.seed)
    calls: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    undecided: Counter[str] = Counter()
    worst: dict[str, float] = {}
    for call in range(parsed.calls):
        kind, similarity = random_similarity(choose)
        options = random_options(choose, similarity.shape[-2], similarity.shape[-1])
        result = cdam_fast.cdam_attention(similarity.to(parsed.device), backend=parsed.backend, **options)
        exact = oracle(similarity, **options)
        error = largest_error(result, exact)
        allowed = map_budget(result.dtype)  # with the rounding of a result in half precision
        calls[kind] += 1
        if not error <= allowed and _is_undecided(similarity, exact, allowed / 3, options):
            undecided[kind] += 1
            continue
        worst[kind] = max(worst.get(kind, 0.0), error / allowed)
        if not error <= allowed:
            wrong[kind] += 1
            print(f"{kind} {tuple(similarity.shape)} {similarity.dtype} {options}: error {error:.1e}")  # noqa: T201
        if (call + 1) % 1000 == 0:
            print(f"{call + 1} of {parsed.calls}", file=sys.stderr)  # noqa: T201
    for kind in KINDS:
        share = worst.get(kind, 0.0)
        print(f"{kind:13} {calls[kind]:6} calls, {wrong[kind]} out of budget, at most {share:.2f} of it")  # noqa: T201
    total = sum(wrong.values())
    unsure = sum(undecided.values())
    if unsure:
        print(f"{unsure} calls that float64 does not decide: {dict(undecided)}")  # noqa: T201
    print(f"{parsed.calls} calls of {parsed.backend}, seed {parsed.seed}: {total} out of budget")  # noqa: T201
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
