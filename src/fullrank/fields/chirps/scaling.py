"""Standardised labels: what a network learns has mean 0 and standard deviation 1 in every column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class LabelScaler:
    """Standardise labels by column with the mean and the population standard deviation.

    Args:
        names: of the columns, for messages; default their numbers.

    Attributes:
        mean, std: (columns,) float64, after `fit`.
    """

    def __init__(self, names: tuple[str, ...] | None = None) -> None:
        self.names = names
        self.mean: np.ndarray | None = None
        self.std: np.ndarray | None = None

    def fit(self, y: ArrayLike) -> LabelScaler:
        """Take mean and standard deviation from labels (n, columns).

        Raises:
            ValueError: NaN or infinite labels, no rows, or a constant column; the column is named.
        """
        y = self._matrix(y)
        if not len(y):
            raise ValueError("y has no rows: labels are needed to standardise by")
        mean, std = y.mean(axis=0), y.std(axis=0)
        for column, deviation in enumerate(std):
            if deviation <= 1e-12 * max(1.0, abs(float(mean[column]))):
                raise ValueError(
                    f"column {self._name(column)!r} of y is constant ({y[0, column]:g}): it cannot be standardised, "
                    "and there is nothing to learn; leave it out"
                )
        self.mean, self.std = mean, std
        return self

    def transform(self, y: ArrayLike) -> np.ndarray:
        """Labels (n, columns) -> standardised, float64.

        Raises:
            ValueError: before `fit`, or labels that are not finite.
        """
        mean, std = self._fitted()
        return (self._matrix(y) - mean) / std

    def inverse_transform(self, y: ArrayLike) -> np.ndarray:
        """Standardised (n, columns) -> labels in their units, float64.

        Raises:
            ValueError: before `fit`.
        """
        mean, std = self._fitted()
        return np.asarray(y, dtype=np.float64) * std + mean

    def to_dict(self) -> dict[str, Any]:
        """Names, mean and standard deviation, JSON-like."""
        mean, std = self._fitted()
        return {"names": list(self.names or ()), "mean": mean.tolist(), "std": std.tolist()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> LabelScaler:
        """What `to_dict` gave."""
        scaler = cls(tuple(fields["names"]) or None)
        scaler.mean, scaler.std = (np.asarray(fields[name], dtype=np.float64) for name in ("mean", "std"))
        return scaler

    def _fitted(self) -> tuple[np.ndarray, np.ndarray]:
        if self.mean is None or self.std is None:
            raise ValueError("the label scaler has no mean and standard deviation yet: call fit(y) first")
        return self.mean, self.std

    def _matrix(self, y: ArrayLike) -> np.ndarray:
        y = np.asarray(y, dtype=np.float64)
        if y.ndim != 2 or (self.names is not None and y.shape[1] != len(self.names)):
            columns = (
                f"{len(self.names)} columns ({', '.join(self.names)})" if self.names else "a column for each target"
            )
            raise ValueError(f"y has the shape {y.shape}: rows for examples and {columns} are needed")
        if len(bad := np.argwhere(~np.isfinite(y))):
            row, column = map(int, bad[0])
            raise ValueError(
                f"y[{row}] has {y[row, column]} in column {self._name(column)!r}: finite labels are needed"
            )
        return y

    def _name(self, column: int) -> str:
        return self.names[column] if self.names else str(column)
