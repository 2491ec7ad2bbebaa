"""A random order of any number of things, computed instead of stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8


class Permutation:
    """A keyed permutation of ``0 .. size - 1`` in constant memory, however many there are.

    A Feistel network (Luby and Rackoff 1988) over the next even number of bits; what falls outside
    is permuted again until it falls inside (Black and Rogaway 2002, "Ciphers with Arbitrary Finite
    Domains": cycle walking, at most 4 rounds of it on average). It shuffles; it keeps no secrets.

    Args:
        size: at most 2**62.
        key: whole numbers from 0 up; other keys give other orders.
    """

    def __init__(self, size: int, key: Sequence[int]) -> None:
        self.size = size
        half = max(1, -(-max(size - 1, 1).bit_length() // 2))
        self._half = np.uint64(half)
        self._mask = np.uint64(2**half - 1)
        self._keys = np.random.SeedSequence(list(key)).generate_state(_ROUNDS, np.uint64)

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at each of ``indices``."""
        if self.size == 1:  # of a corpus of one document a pass may be one piece
            return np.zeros_like(indices)
        found = self._encrypt(indices.astype(np.uint64))
        while (outside := np.flatnonzero(found >= self.size)).size:
            found[outside] = self._encrypt(found[outside])
        return found.astype(np.int64)

    def _encrypt(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> self._half, x & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return left << self._half | right


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
