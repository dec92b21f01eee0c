"""The scikit-learn transformer: scikit-learn's own checks, and neighbours by the Jensen-Shannon metric."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import cdam_fast

sklearn = pytest.importorskip("sklearn", minversion="1.3")

from sklearn.base import clone  # noqa: E402
from sklearn.cluster import KMeans  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.neighbors import NearestNeighbors  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from cdam_fast.sklearn import JSEmbedding  # noqa: E402


def distributions(count, classes=12, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), count)


def divergence(p, q):
    m = (p + q) / 2
    terms = [x[x > 0] * np.log(x[x > 0] / m[x > 0]) for x in (p, q)]
    return sum(term.sum() for term in terms) / 2


@parametrize_with_checks([JSEmbedding(), JSEmbedding(rtol=1e-3)])
def test_checks_of_scikit_learn(estimator, check):
    """All of them, none expected to fail: what is asked of non-negative input holds for any such rows."""
    check(estimator)


def test_neighbours_are_those_of_the_metric():
    database, queries = distributions(200), distributions(5, seed=1)
    pipeline = make_pipeline(JSEmbedding(), NearestNeighbors(n_neighbors=4)).fit(database)
    found, indices = pipeline[-1].kneighbors(pipeline[:-1].transform(queries))
    metric = np.array([[np.sqrt(2 * divergence(query, row)) for row in database] for query in queries])
    assert (indices == np.argsort(metric)[:, :4]).all()
    np.testing.assert_allclose(found, np.sort(metric)[:, :4], rtol=1e-5)


def test_output_is_that_of_the_function_about_the_mean():
    rows = distributions(30)
    transformer = JSEmbedding(rtol=1e-4).fit(rows)
    np.testing.assert_allclose(transformer.base_, rows.mean(0))
    expected = cdam_fast.js_embedding(torch.tensor(rows), torch.tensor(rows).mean(0), rtol=1e-4)
    result = transformer.transform(rows)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-7)
    # float32 and lists are taken as they are
    np.testing.assert_allclose(transformer.transform(rows.astype(np.float32)), expected.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(transformer.transform(rows.tolist()), result)


def test_names_of_what_goes_in_and_comes_out():
    transformer = JSEmbedding(rtol=5e-3).fit(distributions(4, 3))
    assert transformer.n_features_in_ == 3
    names = transformer.get_feature_names_out()
    assert list(names) == [f"jsembedding{i}" for i in range(12)]


def test_clusters():
    """Rows around three one-hot distributions fall into three clusters."""
    truth = np.arange(60) % 3
    rows = 0.9 * np.eye(12)[truth] + 0.1 * distributions(60)
    labels = make_pipeline(JSEmbedding(rtol=1e-3), KMeans(3, n_init=3, random_state=0)).fit_predict(rows)
    assert len(set(zip(truth.tolist(), labels.tolist()))) == 3


def test_rows_of_any_sum_and_of_zeros_alone_are_taken():
    rows = np.array([[0.0, 0.0], [2.0, 6.0], [0.25, 0.75]])
    points = JSEmbedding().fit_transform(rows).astype(float)
    for i in range(3):
        for j in range(3):
            square = ((points[i] - points[j]) ** 2).sum()
            assert square == pytest.approx(2 * divergence(rows[i], rows[j]), rel=2e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5, -0.25], [0.5, 0.5]], "X: got -0.25, takes values of at least 0"),
        ([[0.5, np.nan], [0.5, 0.5]], "NaN"),
        ([[0.5, np.inf], [0.5, 0.5]], "infinity"),
        ([0.5, 0.5], "Expected 2D array"),
    ],
)
def test_what_is_no_distribution_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        JSEmbedding().fit(rows)
    fitted = JSEmbedding().fit(distributions(3, 2))
    with pytest.raises(ValueError, match=message):
        fitted.transform(rows)


def test_other_columns_and_no_fit_are_refused():
    with pytest.raises(NotFittedError):
        JSEmbedding().transform(distributions(3))
    with pytest.raises(ValueError, match="12 features"):
        JSEmbedding().fit(distributions(3)).transform(distributions(3, 4))


def test_bad_rtol_is_named_by_fit():
    with pytest.raises(ValueError, match=r"rtol: got 2\.0, takes a number from 1e-06 to less than 1"):
        clone(JSEmbedding(rtol=2.0)).fit(distributions(3))


def test_import_of_the_package_brings_no_scikit_learn():
    code = "import sys, cdam_fast; assert 'sklearn' not in sys.modules, 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
