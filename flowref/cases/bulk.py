"""Bulk numbers: the same bits on every machine and at every version of numpy and torch.

They come from the raw 64-bit words of Philox (a fixed algorithm) through IEEE + - * / sqrt in an order
that is written here; no distribution of a library, no BLAS, no library's sum.

    Bulk(seed)       one independent stream of words for each label, so that a tensor's numbers
                     do not depend on the sizes of the others
    round_to_bits    to so many significant bits, hence exact in every dtype that has as many
"""

from __future__ import annotations

import hashlib
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@cache
def _tag(label: str) -> int:
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")


def round_to_bits(values: Array, bits: int) -> Array:
    """The nearest numbers with ``bits`` significant bits (ties to even). Exact operations only."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)


def fixed_sum(terms: Array) -> Array:
    """The sum over axis 0, by halves: the same order, hence the same bits, everywhere."""
    while len(terms) > 1:
        half = len(terms) // 2
        folded = terms[:half] + terms[half : 2 * half]
        terms = np.concatenate([folded, terms[2 * half :]]) if len(terms) % 2 else folded
    return terms[0]


class Bulk:
    """Numbers of one case, by label. ``bits``: significant bits of all that `spread` and `between` give."""

    def __init__(self, seed: int, bits: int) -> None:
        self.seed, self.bits = seed, bits

    def words(self, label: str, n: int) -> NDArray[np.uint64]:
        """n words of the label's stream."""
        return np.random.Philox(key=np.array([self.seed, _tag(label)], np.uint64)).random_raw(n)

    def units(self, label: str, n: int) -> Array:
        """n numbers in [0, 1), multiples of 2**-53."""
        return (self.words(label, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def spread(self, label: str, shape: tuple[int, ...], top: int = 0) -> Array:
        """Numbers of either sign in [2**(top-2), 2**(top+1)): three binades, so none near 0. Exact in ``bits``."""
        words = self.words(label, math.prod(shape))
        fraction = (words >> np.uint64(64 - (self.bits - 1))).astype(np.float64) * 2.0 ** (1 - self.bits)
        exponent = (words & np.uint64(0xFFFF)).astype(np.int64) % 3
        sign = 1.0 - 2.0 * ((words >> np.uint64(16)) & np.uint64(1)).astype(np.float64)
        return np.ldexp(sign * (1.0 + fraction), top - exponent).reshape(shape)

    def between(self, label: str, n: int, low: float, high: float) -> Array:
        """n numbers that differ, one from each of n equal steps of [low, high], in no order."""
        steps = self.shuffled(label + "/order", n).astype(np.float64) + self.units(label, n)
        return round_to_bits(low + (high - low) * (steps / max(n, 1)), self.bits)

    def shuffled(self, label: str, n: int) -> NDArray[np.int64]:
        """A permutation of 0..n-1, every one equally likely."""
        return np.argsort(self.words(label, n), kind="stable")

    def permutation(self, label: str, n: int) -> NDArray[np.int64]:
        """A permutation without special structure: it does not undo itself; at n = 2 it is the swap."""
        for attempt in range(64):
            pi = self.shuffled(f"{label}/{attempt}", n)
            if n < 2 or (n == 2 and pi[0] == 1) or (n > 2 and (pi[pi] != np.arange(n)).any()):
                return pi
        return np.roll(np.arange(n), 1)

    def orthogonal(self, label: str, n: int, count: int) -> tuple[Array, int]:
        """``count`` orthogonal matrices (count, n, n) without special structure; the product of their determinants.

        Each is a product of reflections on n, n−1, …, 2 axes along nearly normal vectors, so nearly Haar.
        """
        w = np.zeros((n, n, count))
        w[np.arange(n), np.arange(n)] = 1
        four = self.units(label, 4 * n * n * count).reshape(4, n, n, count)
        normal = (four[0] + four[1]) + (four[2] + four[3]) - 2.0
        for k in range(n - 1):
            v = normal[k, k:]
            v[0] += np.where(v[0] < 0, -(2.0**-10), 2.0**-10)  # so that no v is 0
            w[k:] = w[k:] - (2.0 / fixed_sum(v * v)) * v[:, None] * fixed_sum(v[:, None] * w[k:])
        minus = (self.words(label + "/signs", n * count) & np.uint64(1)).astype(bool)
        w = np.where(minus.reshape(n, 1, count), -w, w)
        return np.moveaxis(w, -1, 0), (-1) ** ((n - 1) * count + int(minus.sum()))

    def rotation(self, label: str, n: int, dense: bool) -> Array:
        """A matrix of SO(n), rounded to ``bits``: dense, or blocks of 8 between two random permutations.

        The determinant before rounding is +1: the sign of the last row makes up for blocks and permutations.
        """
        size = n if dense else min(n, 8)
        w, determinant = np.zeros((n, n)), 1
        for width, start in ((size, 0), (n % size, n - n % size)):  # whole blocks, then what is left
            blocks, sign = self.orthogonal(f"{label}/{width}", width, (n - start) // width if width else 0)
            for k, block in enumerate(blocks):
                at = start + k * width
                w[at : at + width, at : at + width] = block
            determinant *= sign
        if size < n:
            rows, columns = self.shuffled(label + "/rows", n), self.shuffled(label + "/columns", n)
            w, determinant = w[rows][:, columns], determinant * parity(rows) * parity(columns)
        if determinant < 0:
            w[-1] = -w[-1]
        return round_to_bits(w, self.bits)


def parity(pi: NDArray[np.int64]) -> int:
    """+1 for an even permutation, −1 for an odd one: each cycle of even length counts −1."""
    left, sign = set(range(len(pi))), 1
    while left:
        start = at = left.pop()
        while (at := int(pi[at])) != start:
            left.remove(at)
            sign = -sign
    return sign
