"""The Jensen-Shannon embedding as a scikit-learn transformer. Needs scikit-learn 1.3 or newer: ``cdam_fast[sklearn]``.

::

    from cdam_fast.sklearn import JSEmbedding

    neighbours = make_pipeline(JSEmbedding(rtol=1e-3), NearestNeighbors(n_neighbors=10)).fit(distributions)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from cdam_fast.isometry import js_embedding

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # scikit-learn before 1.6

    def validate_data(estimator: Any, X: object, **checks: Any) -> Any:  # noqa: N803
        """The method that the function was."""
        return estimator._validate_data(X, **checks)


__all__ = ["JSEmbedding"]


class JSEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """`cdam_fast.js_embedding` with the mean of the rows that it was fitted on as its base.

    Distributions go in, points come out whose squared Euclidean distance is twice the Jensen-Shannon divergence in
    nats: what a scikit-learn estimator does with Euclidean distances (NearestNeighbors, KMeans, DBSCAN, PCA, ...) it
    then does with the Jensen-Shannon metric, ``sqrt(2 JS)``.

    Args:
        rtol: relative tolerance of a squared distance, from 1e-6 to less than 1. The features of a class are 6 for
            1e-3 and 23 for 1e-6.

    Attributes:
        base_: ``[C]`` float64, the mean row; embedded as 0.
        n_features_in_: C. feature_names_in_: of a data frame's columns, where it had names.

    Rows are non-negative and finite; they need not sum to 1 and are taken as they are (counts: divide by their sum
    first, unless their size is to matter). Negative values, NaN and infinities raise ValueError. Output is float32.
    """

    def __init__(self, *, rtol: float = 1e-6) -> None:
        self.rtol = rtol

    def fit(self, X: npt.ArrayLike, y: object = None) -> JSEmbedding:  # noqa: N803
        """Keep the mean of the rows of ``X [N, C]``; y is ignored.

        Raises:
            ValueError: X is empty, no matrix, or has a negative, infinite or NaN value; rtol out of range.
            TypeError: X is sparse; rtol is no number.
        """
        rows = self._rows(X, reset=True)
        self.base_ = rows.mean(0, dtype=np.float64)
        self._n_features_out = self._embed(rows[:1]).shape[1]
        return self

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:  # noqa: N803
        """``X [N, C] -> [N, K]`` float32, about the mean of the rows that it was fitted on.

        Raises:
            ValueError: as `fit`, and another number of columns. TypeError: X is sparse.
            sklearn.exceptions.NotFittedError: before `fit`.
        """
        check_is_fitted(self)
        return self._embed(self._rows(X, reset=False))

    def _rows(self, data: object, *, reset: bool) -> npt.NDArray[Any]:
        rows: npt.NDArray[Any] = validate_data(self, data, reset=reset, dtype=[np.float64, np.float32])
        least = rows.min()
        if least < 0:  # the second sentence is what scikit-learn's own checks look for
            raise ValueError(f"X: got {least}, takes values of at least 0. Negative values in data passed to {self!r}")
        return rows

    def _embed(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with torch.no_grad():  # torch.tensor copies: an array may be read-only
            embedded = js_embedding(torch.tensor(rows), torch.tensor(self.base_), rtol=self.rtol)
        points: npt.NDArray[np.float32] = embedded.numpy()
        return points

    def __sklearn_tags__(self) -> Any:
        """From scikit-learn 1.6 on."""
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Up to scikit-learn 1.5."""
        return {"requires_positive_X": True, "preserves_dtype": [np.float32]}
