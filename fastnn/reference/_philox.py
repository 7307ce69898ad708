"""Owns the counter-based random generator Philox4x32-10 (Salmon et al. 2011) in NumPy.

Leaves the meaning of counter and key to its callers.
"""

import numpy as np

from fastnn.reference._shapes import Array


def philox4x32(counter: Array, key: tuple[int, int]) -> Array:
    """Ten rounds of Philox on blocks of four 32-bit words.

    Parameters
    ----------
    counter : (..., 4) uint64
        Four 32-bit words a block.
    key : (int, int)
        Two 32-bit words.

    Returns
    -------
    (..., 4) uint64
        Four random 32-bit words a block.

    Examples
    --------
    >>> [hex(word) for word in philox4x32(np.zeros(4, np.uint64), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * np.uint64(0xD2511F53)
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c2 = p1 >> np.uint64(32) ^ c1 ^ np.uint64(k0), p0 >> np.uint64(32) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & low, p0 & low
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)
