"""Ranks of classes, and intervals of an accuracy. Imported only; pure functions of arrays and counts."""
import math

import numpy as np

Z95 = 1.959963984540054  # standard normal quantile of 0.975, for a two-sided 95 % interval


def rank(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the 1-based place (N,) of class `labels` (N,) in each row of `values` (N, num_classes), highest first.

    Of equal values the lower class id comes first.
    """
    labels = labels[:, np.newaxis]
    own = np.take_along_axis(values, labels, axis=1)
    before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < labels))
    return 1 + np.count_nonzero(before, axis=1)


def highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the ids (N, count) of the classes with the highest of `values` (N, num_classes), highest first.

    Of equal values the lower class id comes first.
    """
    values, found = values.copy(), []
    for _ in range(count):
        found.append(values.argmax(axis=1))
        np.put_along_axis(values, found[-1][:, np.newaxis], -np.inf, axis=1)
    return np.stack(found, axis=1)


def wilson(count: int, total: int) -> tuple:
    """Return the 95 % interval (low, high) of the share count / total, in percent.

    E. B. Wilson, JASA 22 (1927), p. 209.
    """
    share, z2 = count / total, Z95 * Z95
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)
