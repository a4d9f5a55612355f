"""Decides which row of a source stands at a place in its order. Never stores an order: any place costs the same.

    index k of a source of n rows  ->  epoch k // n,  row permutation(seed, source, epoch)(k mod n)

The permutation is a balanced Feistel network of 4 rounds (Luby and Rackoff 1988) on the smallest domain of 2^(2h)
numbers that holds n, h >= 1, with cycle-walking back into [0, n) (Black and Rogaway 2002, "Ciphers with arbitrary
finite domains"). A number is `left * 2^h + right`; round r = 0..3 maps `(left, right)` to
`(right, left XOR F(r, right))`. The domain is smaller than 4n, so a walk takes fewer than 4 passes on average.

`F(r, half)` hashes these bytes with sha256 and takes the first 8 bytes of the digest, big-endian, modulo 2^h:

    "rewarm-order-v1" NUL seed NUL source NUL epoch NUL round NUL half

as UTF-8 text, numbers in decimal, NUL the zero byte. This encoding is a contract: changing it changes every run.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
DOMAIN = "rewarm-order-v1"
_WIDEST = 31
"""Bits of a half at most: 2^62 rows, so that every number fits 64 bits with their sign."""
_TABLE_BITS = 16
"""Bits of a half up to which what was worked out is kept: of a source of up to 2^32 rows."""


def permuted(seed: int, source: str, epoch: int, places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The rows at `places` of `source` in `epoch`, [n]: a permutation of [0, size) for every (seed, source, epoch)."""
    if len(places) and not (places.min() >= 0 and places.max() < size <= 1 << (2 * _WIDEST)):
        raise ValueError(f"source {source}: places {places.min()} to {places.max()} outside [0, {size})")
    if "\0" in source:
        raise ValueError(f"source name {source!r} holds a zero byte")
    if size == 1:
        return np.zeros_like(places)
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    rounds = _rounds(seed, source, epoch, half_bits)
    numbers = _pass(places, rounds, half_bits)
    while len(outside := np.flatnonzero(numbers >= size)):
        numbers[outside] = _pass(numbers[outside], rounds, half_bits)
    return numbers


def permute(seed: int, source: str, epoch: int, place: int, size: int) -> int:
    """`permuted` of one place."""
    return int(permuted(seed, source, epoch, np.array([place]), size)[0])


def _pass(numbers: NDArray[np.int64], rounds: tuple[_Round, ...], half_bits: int) -> NDArray[np.int64]:
    """Once through the network: two rounds at a time, so that no halves change sides."""
    left, right = numbers >> half_bits, numbers & ((1 << half_bits) - 1)
    for even, odd in (rounds[:2], rounds[2:]):
        left ^= even.of(right)
        right ^= odd.of(left)
    return left << half_bits | right


class _Round:
    """F of one round, by half; worked out once where it is asked for.

    A half takes about the square root of a source's rows as values, so most are asked for many times.
    """

    def __init__(self, key: str, turn: int, half_bits: int) -> None:
        self._keyed = hashlib.sha256(f"{key}{turn}\0".encode())
        self._mask = (1 << half_bits) - 1
        self._known = np.full(1 << half_bits, -1, dtype=np.int64) if half_bits <= _TABLE_BITS else None
        self._is_whole = False

    def of(self, halves: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._known is None:
            return np.array([self._value(half) for half in halves.tolist()], dtype=np.int64)
        # The loader's thread and the training thread may both be here. Asked before the look: that the table became
        # whole after it says nothing of what was seen.
        is_whole = self._is_whole
        found = self._known[halves]
        if not is_whole and (found < 0).any():
            missing = np.unique(halves[found < 0])
            self._known[missing] = [self._value(half) for half in missing.tolist()]
            # Looked up, not counted, for the same reason.
            self._is_whole = bool((self._known >= 0).all())
            found = self._known[halves]
        return found

    def _value(self, half: int) -> int:
        state = self._keyed.copy()
        state.update(b"%d" % half)
        return int.from_bytes(state.digest()[:8], "big") & self._mask


@lru_cache(maxsize=256)
def _rounds(seed: int, source: str, epoch: int, half_bits: int) -> tuple[_Round, ...]:
    key = f"{DOMAIN}\0{seed}\0{source}\0{epoch}\0"
    return tuple(_Round(key, turn, half_bits) for turn in range(ROUNDS))


def drawn(seed: int, source: str, indices: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(epochs, rows) of the `indices`-th rows drawn from `source`, which has `size` rows. Each row once per epoch."""
    if size < 1 or (len(indices) and indices.min() < 0):
        found = f"index {indices.min()} of {size} rows" if len(indices) else f"{size} rows"
        raise ValueError(f"source {source}: {found}; expected index >= 0 and at least one row")
    epochs, within = np.divmod(indices, size)
    if len(epochs) and (epochs == epochs[0]).all():
        return epochs, permuted(seed, source, int(epochs[0]), within, size)
    rows = np.empty_like(within)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        rows[chosen] = permuted(seed, source, epoch, within[chosen], size)
    return epochs, rows


def place(seed: int, source: str, index: int, size: int) -> tuple[int, int]:
    """(epoch, row) of the `index`-th row drawn from `source`: `drawn` of one."""
    epochs, rows = drawn(seed, source, np.array([index]), size)
    return int(epochs[0]), int(rows[0])
