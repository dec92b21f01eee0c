"""Peak memory of one call, in float32 maps of N x N; the result counts as one."""

import pytest
import torch

from cdam_fast import cdam_attention, testing
from cdam_fast.measuring.measure import peak_memory


def peak_in_maps(similarity: torch.Tensor) -> float:
    patches = similarity.shape[-2] * similarity.shape[-1]

    def call() -> torch.Tensor:
        with torch.no_grad():
            return cdam_attention(similarity)

    call()  # tables
    peak, _, result = peak_memory(call, torch.device("cpu"))
    assert result.isfinite().all()
    return peak / (4 * patches**2)


def test_64x64_with_284_classes_stays_below_8_maps():
    assert peak_in_maps(testing.clip_like(284, 64, 64)) < 8


@pytest.mark.parametrize("spread", [0.03, 1.0], ids=["by-product", "by-definition"])
def test_a_batch_takes_the_memory_of_one_image_and_its_results(spread):
    single = peak_in_maps(testing.clip_like(20, 14, 14, spread=spread))
    batch = peak_in_maps(testing.clip_like(20, 14, 14, batch=(6,), spread=spread))
    assert batch < single + 2 * 6  # the maps, and once more while they are put together
