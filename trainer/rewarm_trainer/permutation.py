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

ROUNDS = 4
DOMAIN = "rewarm-order-v1"


def permute(seed: int, source: str, epoch: int, place: int, size: int) -> int:
    """The row at `place` of `source` in `epoch`: a permutation of [0, size) for every (seed, source, epoch)."""
    if not 0 <= place < size:
        raise ValueError(f"place {place} outside [0, {size})")
    if "\0" in source:
        raise ValueError(f"source name {source!r} holds a zero byte")
    if size == 1:
        return 0
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    first, second, third, fourth = _rounds(seed, source, epoch)
    number = place
    while True:
        left, right = number >> half_bits, number & mask
        left ^= first[right] & mask
        right ^= second[left] & mask
        left ^= third[right] & mask
        right ^= fourth[left] & mask
        number = left << half_bits | right
        if number < size:
            return number


class _Round(dict[int, int]):
    """F of one round before it is cut to h bits, by half; worked out once where it is asked for.

    A half takes about the square root of a source's rows as values, so most are asked for many times.
    """

    def __init__(self, key: str, turn: int) -> None:
        self._keyed = hashlib.sha256(f"{key}{turn}\0".encode())

    def __missing__(self, half: int) -> int:
        state = self._keyed.copy()
        state.update(b"%d" % half)
        self[half] = value = int.from_bytes(state.digest()[:8], "big")
        return value


@lru_cache(maxsize=256)
def _rounds(seed: int, source: str, epoch: int) -> tuple[_Round, ...]:
    key = f"{DOMAIN}\0{seed}\0{source}\0{epoch}\0"
    return tuple(_Round(key, turn) for turn in range(ROUNDS))


def place(seed: int, source: str, index: int, size: int) -> tuple[int, int]:
    """(epoch, row) of the `index`-th row drawn from `source`, which has `size` rows. Each row once per epoch."""
    if size < 1 or index < 0:
        raise ValueError(f"source {source}: index {index} of {size} rows; expected index >= 0 and at least one row")
    epoch, within = divmod(index, size)
    return epoch, permute(seed, source, epoch, within, size)
