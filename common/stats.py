"""Rank classes, and compute confidence intervals and references of an accuracy. Imported only; pure functions."""
import math
import re
from fractions import Fraction

from common import model

import numpy as np

Z95 = 1.959963984540054  # standard normal quantile of 0.975, for a two-sided 95 % interval


def rank(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the 1-based rank (N,) of class `labels` (N,) in each row of `values` (N, num_classes), highest first.

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


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p of McNemar's test (Psychometrika 12 (1947), p. 153).

    only_a and only_b: the number of images that only A, or only B, classifies correctly.
    """
    n, term, tail = only_a + only_b, 1, 0
    for i in range(min(only_a, only_b) + 1):
        tail += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2 ** n) if n else 1.0


def paired_interval(only_a: int, only_b: int, total: int) -> tuple:
    """Return the 95 % interval, in points, of B's accuracy minus A's, on the same `total` images.

    The adjusted Wald interval of D. G. Bonett and R. M. Price, J. Educ. Behav. Stat. 37 (2012), p. 479.
    """
    a, b = (only_a + 1) / (total + 2), (only_b + 1) / (total + 2)
    half = Z95 * math.sqrt((a + b - (a - b) ** 2) / (total + 2))
    return 100 * max(-1.0, b - a - half), 100 * min(1.0, b - a + half)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors, 1 for two zeros."""
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else float(not (a.any() or b.any()))


def fraction(text: str) -> Fraction:
    """Return a number without rounding; raises ValueError, which argparse reports, on any other text."""
    if len(text) > 30 or re.search(r"[eE][-+]?0*[0-9]{3}", text):  # 1e9999999999 would be computed, digit by digit
        raise ValueError
    try:
        return Fraction(text)
    except ZeroDivisionError as error:  # 1/0
        raise ValueError from error


def percentages(text: str) -> dict:
    """Return {1: 78.892, 5: 94.292} of '78.892,94.292', as exact fractions; raises ValueError."""
    top1, top5 = (fraction(part) for part in text.split(","))
    if not 0 <= top1 <= top5 <= 100:
        raise ValueError
    return {1: top1, 5: top5}


def reference_of(text: str, classes: int) -> dict:
    """Return {k: percent}, the reference for a network of `classes`; the published one is for ImageNet only.

    With fewer than five classes there is no top-5.
    """
    if text == "published":
        if classes not in (model.NUM_CLASSES, model.BACKGROUND_CLASSES):
            return {}
        text = f"{model.PUBLISHED_TOP1},{model.PUBLISHED_TOP5}"
    return {k: percent for k, percent in percentages(text).items() if k <= classes} if text else {}
