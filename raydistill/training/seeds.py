"""Seeds of many generators from one."""

from __future__ import annotations


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; different parts give unrelated seeds."""
    mixed = 0
    for part in parts:  # splitmix64's finaliser
        mixed = (mixed + part + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed >> 1
