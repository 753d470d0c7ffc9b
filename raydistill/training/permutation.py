"""A random order that takes no memory: where any one number of it goes is computed.

Comes in: numbers (B,) from 0 to below a size, a key. Goes out: their places in an order of all numbers below that size.

A Feistel network is a permutation of 2^b numbers whatever its round function is (Luby and Rackoff 1988); a number that
it sends beyond the size is sent on until it is below it (cycle walking: Black and Rogaway 2002, Ciphers with Arbitrary
Finite Domains). Mitchell et al. 2021 (arXiv 2106.06161) shuffle so, too, and find it as good as other shuffles.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # an odd 64-bit constant, the golden ratio's, as a signed number
FIRST, SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # of splitmix64's finaliser
ROUNDS = 6
Numbers = Tensor | int


def permute(numbers: Tensor, size: Numbers, key: Numbers) -> Tensor:
    """Places (B,) int64 of the numbers (B,), each from 0 to below its size, in the random order of its key.

    size, key: one for all, or (B,), one for each. Numbers of one size and key have different places.
    """
    sizes, keys = torch.as_tensor(size), torch.as_tensor(key)
    places = _encipher(numbers, sizes, keys)
    outside = (places >= sizes).nonzero().squeeze(1)
    while len(outside):
        limits = _pick(sizes, outside)
        moved = _encipher(places[outside], limits, _pick(keys, outside))
        places[outside] = moved
        outside = outside[moved >= limits]
    return places


def scramble(numbers: Tensor) -> Tensor:
    """64 mixed bits for each number (B,) int64; what overflows is lost. splitmix64's finaliser."""
    mixed = numbers.bitwise_xor(shift_right(numbers, 30)).mul_(FIRST)
    mixed.bitwise_xor_(shift_right(mixed, 27)).mul_(SECOND)
    return mixed.bitwise_xor_(shift_right(mixed, 31))


def shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Of 64 bits, without the sign's."""
    return (numbers >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _encipher(numbers: Tensor, sizes: Tensor, keys: Tensor) -> Tensor:
    """A permutation of the numbers of as many bits as the size takes: each half in turn is mixed into the other."""
    bits = torch.frexp((sizes - 1).double()).exponent.long()
    low_bits = bits - bits // 2
    high_mask, low_mask = (1 << bits // 2) - 1, (1 << low_bits) - 1
    high, low = numbers >> low_bits, numbers & low_mask
    for _ in range(ROUNDS // 2):
        high = high ^ (shift_right(scramble(low + keys), 32) & high_mask)
        keys = keys + GOLDEN
        low = low ^ (shift_right(scramble(high + keys), 32) & low_mask)
        keys = keys + GOLDEN
    return (high << low_bits) | low


def _pick(values: Tensor, places: Tensor) -> Tensor:
    return values if values.dim() == 0 else values[places]
