"""How ternary a matrix is, and the codes and scale it stands for.

Shapes: w_NK is a float32 weight [N, K], its codes are int8 [N, K] in {-1, 0, 1}.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from wrinklefree import ops
from wrinklefree.errors import FormatError

# Rounding to a normal float16 costs at most this much; below the normal range it costs more.
_F16_RELATIVE_ERROR = 2.0**-11


@dataclass(frozen=True, slots=True)
class Ternary:
    """A matrix that is scale * codes."""

    codes: np.ndarray  # int8 [N, K]
    scale: np.float32


@dataclass(frozen=True, slots=True)
class TernaryError:
    """Distance of a matrix from its best ternary form.

    `off_grid`: share of weights that are neither 0 nor +-max|W|; `relative`: |W - s Q| / |W| after
    absmean quantization.
    """

    name: str
    off_grid: float
    relative: float


def quantize_master(w_NK: np.ndarray) -> Ternary:
    """Codes and scale of a master weight: absmean, as the engine and training compute them."""
    codes, scale = ops.ternary_quantize(torch.from_numpy(np.ascontiguousarray(w_NK)))
    return Ternary(codes.numpy(), np.float32(float(scale)))


def exact_ternary(w_NK: np.ndarray) -> Ternary | None:
    """Codes and scale of a matrix with values in {-s, 0, s} only, None for any other matrix.

    s is the largest magnitude, so it depends neither on signs nor on the order of the values.
    """
    scale = np.float32(np.abs(w_NK).max(initial=0.0))
    if not np.isin(np.abs(w_NK), (np.float32(0), scale)).all():
        return None
    return Ternary(np.sign(w_NK).astype(np.int8), scale)


def ternary_error(name: str, w_NK: np.ndarray) -> TernaryError:
    """Measures how far from ternary a matrix is."""
    magnitudes = np.abs(w_NK)
    off_grid = 1.0 - np.isin(magnitudes, (np.float32(0), magnitudes.max(initial=0.0))).mean()
    nearest = quantize_master(w_NK)
    difference = np.linalg.norm(w_NK - nearest.codes * nearest.scale)
    return TernaryError(name, float(off_grid), float(difference / np.linalg.norm(w_NK)))


def refuse_not_ternary(errors: list[TernaryError], source: str) -> None:
    """Raises one FormatError that names every tensor in `errors`, worst first; none: returns."""
    if not errors:
        return
    worst = sorted(errors, key=lambda error: -error.relative)
    listed = ", ".join(
        f"{error.name} (relative error {error.relative:.3f}, {error.off_grid:.1%} of weights off)"
        for error in worst
    )
    raise FormatError(
        f"{source}: {len(errors)} matrices are not ternary and would be damaged: {listed}. "
        "Train the model with wf-train first; only exact {-s, 0, s} values and artifacts convert"
    )


def round_scale_to_f16(ternary: Ternary, name: str) -> np.float32:
    """The scale as a float16 field stores it, in float32.

    Raises FormatError where float16 cannot hold it to the usual 2^-11. An all-zero matrix has no
    use for its scale.
    """
    with np.errstate(over="ignore"):
        rounded: np.float32 = np.float32(np.float16(ternary.scale))
    if not ternary.codes.any():
        return rounded
    error = abs(float(rounded) - float(ternary.scale)) / float(ternary.scale)
    if not error <= _F16_RELATIVE_ERROR:
        raise FormatError(
            f"{name}: scale {ternary.scale:g} is outside of float16's normal range; "
            "--type i2_s stores it in float32"
        )
    return rounded
