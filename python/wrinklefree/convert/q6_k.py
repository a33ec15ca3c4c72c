"""Q6_K of ggml: 256 weights in 210 bytes (csrc/core/layout/q6_k.h has the places)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
BLOCK_BYTES = 210
_GROUP = 16  # weights with one int8 scale


def quantize(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows [N, K] to bytes [N, K / 256 * 210]; K is a multiple of 256, values are finite.

    A group's scale maps its largest magnitude to code -32, then is fitted to its codes by least
    squares; the scales of a block are int8 multiples of a float16.
    """
    rows = len(values)
    groups = values.astype(np.float32).reshape(-1, BLOCK // _GROUP, _GROUP)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)
    codes = _codes(groups, largest * np.float32(-1 / 32))
    squares = (codes * codes).sum(axis=2, keepdims=True)
    scales = _ratio((groups * codes).sum(axis=2, keepdims=True), squares)

    extreme = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
    d = (extreme / -128).astype(np.float16)
    steps = np.rint(_ratio(scales, d.astype(np.float32))).clip(-128, 127)
    codes = _codes(groups, steps * d.astype(np.float32))

    blocks = np.empty((len(groups), BLOCK_BYTES), np.uint8)
    # [halves of 128, quarters of 32 within them, 32]
    places = (codes + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low, high = places & 15, places >> 4
    blocks[:, :128] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    blocks[:, 128:192] = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 64)
    blocks[:, 192:208] = steps.astype(np.int8).view(np.uint8).reshape(-1, 16)
    blocks[:, 208:] = d.reshape(-1, 1).view(np.uint8)
    return blocks.reshape(rows, -1)


def _codes(groups: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.rint(_ratio(groups, scales)).clip(-32, 31)


def _ratio(over: NDArray[np.float32], under: NDArray[np.float32]) -> NDArray[np.float32]:
    """over / under, 0 where under is 0."""
    inverse = np.divide(1, under, out=np.zeros_like(under), where=under != 0)
    product: NDArray[np.float32] = over * inverse
    return product
