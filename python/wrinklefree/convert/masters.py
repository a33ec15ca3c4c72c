"""Master weights that mean given codes and a given scale."""

from __future__ import annotations

import numpy as np

from wrinklefree.convert.ternary_check import Ternary
from wrinklefree.errors import FormatError

_MIN_SCALE = np.float32(1e-5)  # absmean quantization knows no smaller scale


def master_weights(ternary: Ternary, name: str) -> np.ndarray:
    """Float32 weights [N, K] whose absmean quantization gives back exactly `ternary`.

    An artifact's scale is the mean of |W| over all weights, zeros included, so the non-zero ones
    must be scale * count / non-zeros, not scale. That value is no float32 in general: the first
    few non-zero weights are one unit in the last place larger, so that the mean rounds to scale.
    Raises FormatError for a scale below 1e-5 that belongs to a matrix with non-zero codes.
    """
    flat = ternary.codes.reshape(-1).astype(np.float32)
    places = np.flatnonzero(flat)
    if len(places) == 0:
        return flat.reshape(ternary.codes.shape)
    if ternary.scale < _MIN_SCALE:
        raise FormatError(
            f"{name}: scale {ternary.scale:g} is below {_MIN_SCALE:g}, the smallest scale of an "
            "artifact"
        )
    total = float(ternary.scale) * flat.size
    low = np.float32(total / len(places))
    if float(low) * len(places) > total:
        low = np.nextafter(low, np.float32(0))
    step = float(np.nextafter(low, np.float32(np.inf))) - float(low)
    num_larger = round((total - float(low) * len(places)) / step)
    magnitudes = np.full(len(places), low, dtype=np.float32)
    magnitudes[:num_larger] = np.nextafter(low, np.float32(np.inf))
    flat[places] *= magnitudes
    return flat.reshape(ternary.codes.shape)
