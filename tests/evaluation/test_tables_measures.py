"""What the tables measure beside mIoU, by restatement and by hand."""

import numpy as np
import pytest
import torch

from cdam_fast import reference
from cdam_fast.evaluation.tables.similarity import choose, judge
from cdam_fast.evaluation.tables.thresholds import RULES, best_threshold, pearson, rule_thresholds

# --- Table 11: correlation, the best threshold, the rules


def test_pearson():
    rng = np.random.default_rng(0)
    one = rng.normal(size=17)
    other = 0.5 * one + rng.normal(size=17)
    a, b = one - one.mean(), other - other.mean()
    assert pearson(list(one), list(other)) == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize(("one", "other"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1, 2], [3, 3])])
def test_no_correlation_where_it_is_not_defined(one, other):
    assert pearson(one, other) is None


def miou(labels, truth):
    """Of one image, class by class; void is -1."""
    counted = truth >= 0
    labels, truth = labels[counted], truth[counted]
    shares = []
    for label in set(labels.tolist()) | set(truth.tolist()):
        both, either = (labels == label) & (truth == label), (labels == label) | (truth == label)
        shares.append(both.sum() / either.sum())
    return sum(shares) / len(shares)


@pytest.mark.parametrize("background", [0, 2])
@pytest.mark.parametrize(("height", "width", "seed"), [(1, 1, 0), (3, 7, 1), (13, 11, 2), (20, 17, 3)])
def test_best_threshold_by_trying_all(height, width, seed, background):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (height, width))
    # right where it is certain, so that a threshold in between is best
    probability = rng.random((height, width)).astype(np.float32)
    truth = np.where(probability > 0.4, labels, background).astype(np.int16)
    truth[rng.random((height, width)) < 0.2] = rng.integers(0, 5)
    truth[rng.random((height, width)) < 0.1] = -1
    found = best_threshold(probability, labels, truth, background)
    if (truth < 0).all():
        assert found is None
        return
    tried = [miou(np.where(probability < t / 1000, background, labels), truth) for t in range(1001)]
    best = next(t for t in range(1001) if tried[t] >= max(tried) - 1e-12)
    assert found == best / 1000


def test_no_best_threshold_of_void():
    ones = np.ones((2, 3))
    assert best_threshold(ones, ones.astype(int), np.full((2, 3), -1, dtype=np.int16), 0) is None


def kittler(counts, t):
    """To be smallest: 1 + 2 sum of P log sigma - 2 sum of P log P (Kittler & Illingworth, 1986)."""
    total = 1.0
    for part in (slice(0, t + 1), slice(t + 1, None)):
        share, levels = counts[part] / counts.sum(), np.arange(256)[part]
        weight = share.sum()
        mean = (share * levels).sum() / weight
        deviation = np.sqrt((share * (levels - mean) ** 2).sum() / weight)
        total += 2 * weight * (np.log(deviation) - np.log(weight))
    return total


def kapur(counts, t):
    """To be smallest: minus the entropies of both sides (Kapur, Sahoo & Wong, 1985)."""
    sides = (counts[: t + 1] / counts[: t + 1].sum(), counts[t + 1 :] / counts[t + 1 :].sum())
    return sum((side[side > 0] * np.log(side[side > 0])).sum() for side in sides)


def huang(counts, t):
    """To be smallest: the Shannon entropy of memberships 1 / (1 + |g - mean| / range) (Huang & Wang, 1995)."""
    levels, total = np.arange(256), 0.0
    spread = np.flatnonzero(counts).max() - np.flatnonzero(counts).min()
    for part in (slice(0, t + 1), slice(t + 1, None)):
        mean = (counts[part] * levels[part]).sum() / counts[part].sum()
        member = 1 / (1 + np.abs(levels[part] - mean) / spread)
        rest = np.where(member < 1, 1 - member, 1)
        total -= (counts[part] * (member * np.log(member) + (1 - member) * np.log(rest))).sum()
    return total


def otsu(counts, t):
    """To be smallest: minus the variance between both sides (Otsu, 1975)."""
    levels = np.arange(256)
    sides = [
        (counts[part].sum(), (counts[part] * levels[part]).sum()) for part in (slice(0, t + 1), slice(t + 1, None))
    ]
    (n, a), (m, b) = sides
    return -n * m * (a / n - b / m) ** 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "cost"), [("Kittler", kittler), ("Kapur", kapur), ("Huang", huang), ("Otsu", otsu)])
def test_rules_are_the_ones_of_their_papers(name, cost, seed):
    """On two clear groups; the libraries' and the textbook's differ by a few levels."""
    rng = np.random.default_rng(seed)
    grey = np.concatenate([rng.normal(80, 12, 3000), rng.normal(180, 22, 2500)]).clip(0, 255).round().astype(np.uint8)
    counts = np.bincount(grey, minlength=256)
    low, high = np.quantile(grey, [0.02, 0.98]).astype(int)
    best = min(range(low, high), key=lambda t: cost(counts, t))
    assert RULES[name](grey.reshape(55, 100)) == pytest.approx(best, abs=8)


@pytest.mark.parametrize("seed", range(3))
def test_lloyd_is_two_means(seed):
    rng = np.random.default_rng(seed)
    grey = np.concatenate([rng.normal(70, 15, 900), rng.normal(190, 20, 300)]).clip(0, 255).round().astype(np.uint8)
    threshold = 128.0
    for _ in range(50):
        threshold = (grey[grey <= threshold].mean() + grey[grey > threshold].mean()) / 2
    assert RULES["Lloyd"](grey.reshape(30, 40)) == pytest.approx(threshold, abs=2)


def test_rules_see_fractions_of_one():
    rng = np.random.default_rng(5)
    probability = np.concatenate([rng.normal(0.3, 0.05, 400), rng.normal(0.7, 0.1, 384)]).clip(0, 1).reshape(28, 28)
    found = rule_thresholds(probability)
    assert list(found) == ["Otsu", "Lloyd", "Kittler", "Li", "Kapur", "Huang"]
    assert all(0.35 < threshold < 0.7 for threshold in found.values())


@pytest.mark.parametrize("probability", [np.full((4, 5), 0.3), np.array([[0.2, 0.9]])], ids=["flat", "two"])
def test_a_rule_without_a_threshold_says_none(probability):
    found = rule_thresholds(probability)
    assert all(threshold is None or 0 <= threshold <= 1 for threshold in found.values())
    assert len(np.unique(probability)) > 1 or set(found.values()) == {None}


# --- Table 17: class predictions and similarities


def test_patches_are_of_the_right_regions():
    truth = np.array([0, 0, 1, 1, 1, 2, -1, 3, 3, -1], dtype=np.int16)
    for seed in range(30):
        triples = choose(truth, 0, np.random.default_rng(seed))
        assert triples.classes.tolist() == [1, 3]  # 0 is the background, and 2 has one patch
        for label, (target, inside, outside) in zip(triples.classes, triples.patches):
            assert truth[target] == truth[inside] == label
            assert target != inside
            assert truth[outside] not in (label, -1)


@pytest.mark.parametrize("truth", [[4, 4, 4], [-1, -1, -1], [0, 0, 1], [5, 5, -1]])
def test_no_patches_where_a_region_is_missing(truth):
    triples = choose(np.array(truth, dtype=np.int16), 0, np.random.default_rng(0))
    assert triples.patches.shape == (0, 3)
    assert judge(torch.rand(3, 3), torch.arange(3), triples) == (0, 0)


def test_probabilities_by_hand():
    """Class 1: called 2, all alike. Class 2: called right, one patch of two like class 1's, so nearer half the time."""
    one, two = [0.1, 0.2, 0.3], [0.1, 0.2, 0.6]
    cosines = torch.tensor([one, one, one, two, one], dtype=torch.float64).T  # [words, patches]
    truth = np.array([1, 1, 1, 2, 2], dtype=np.int16)
    right, nearer = np.zeros(2), np.zeros(2)
    for seed in range(400):
        triples = choose(truth, None, np.random.default_rng(seed))
        for i in range(2):
            only = type(triples)(triples.classes[i : i + 1], triples.patches[i : i + 1])
            found = judge(cosines, torch.arange(3), only)
            right[i] += found[0] / 400
            nearer[i] += found[1] / 400
    assert right.tolist() == pytest.approx([0, 1])
    # of class 1 P_out is `two` half of the time; of class 2 P_target and P_in differ always, and ties are not nearer
    assert nearer[0] == pytest.approx(0.5, abs=0.1)
    assert nearer[1] == 0


def test_a_triple_by_its_divergences():
    torch.manual_seed(0)
    cosines = torch.rand(6, 12, dtype=torch.float64)
    truth = np.array([0, 1] * 6, dtype=np.int16)
    for seed in range(20):
        triples = choose(truth, None, np.random.default_rng(seed))
        p = torch.softmax(cosines / 0.1, 0).T
        exact = reference.pairwise_divergence(p)
        nearer = sum(bool(exact[t, i] < exact[t, o]) for t, i, o in triples.patches)
        right = sum(int(cosines[:, t].argmax()) // 3 == label for label, (t, _, _) in zip(*triples))
        assert judge(cosines, torch.arange(6) // 3, triples) == (right, nearer)
