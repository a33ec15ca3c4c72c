"""The C library's heap while training: memory of one step serves the next."""

from __future__ import annotations

import ctypes

# Numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BYTES = 256 << 20  # the logits of a chunk and the gradient of a large embedding fit
_MOST_IDLE_BYTES = 2**31 - 1


def keep_freed_memory() -> None:
    """Have glibc keep what is freed; elsewhere nothing changes.

    Its default hands the activations of a step back to the system, which clears every page anew in
    the next one: a tenth of a step of SmolLM2-135M. The peak is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _MOST_IDLE_BYTES)
