from __future__ import annotations

import numpy as np
import pytest

from wrinklefree.convert.masters import master_weights
from wrinklefree.convert.ternary_check import (
    Ternary,
    exact_ternary,
    quantize_master,
    refuse_not_ternary,
    round_scale_to_f16,
    ternary_error,
)
from wrinklefree.errors import FormatError

RNG = np.random.default_rng(0)


def codes(shape: tuple[int, int], share_of_zeros: float = 0.4) -> np.ndarray:
    nonzero = RNG.random(shape) >= share_of_zeros
    return (nonzero * RNG.choice((-1, 1), size=shape)).astype(np.int8)


def test_exact_values_are_taken_as_they_are() -> None:
    wanted = codes((8, 64))
    found = exact_ternary(wanted * np.float32(0.037))
    assert found is not None
    assert found.scale == np.float32(0.037)
    assert np.array_equal(found.codes, wanted)


def test_scale_is_positive_and_independent_of_order() -> None:
    weights = codes((16, 32)) * np.float32(-0.5)
    permuted = weights[::-1, ::-1].copy()
    first, second = exact_ternary(weights), exact_ternary(permuted)
    assert first is not None
    assert second is not None
    assert first.scale == second.scale == np.float32(0.5)


def test_one_value_off_the_grid_is_not_ternary() -> None:
    weights = codes((8, 64)) * np.float32(0.5)
    weights[3, 5] = np.nextafter(np.float32(0.5), np.float32(0))
    assert exact_ternary(weights) is None


def test_all_zeros_are_ternary() -> None:
    found = exact_ternary(np.zeros((4, 32), np.float32))
    assert found is not None
    assert not found.codes.any()


def test_error_of_a_gaussian_matrix_is_what_theory_says() -> None:
    """Absmean ternarization of a Gaussian leaves |W - sQ| / |W| = 0.511 (numerical integral)."""
    weights = RNG.normal(size=(512, 512)).astype(np.float32)
    error = ternary_error("w", weights)
    grid = np.linspace(-8, 8, 200_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    scale = np.sqrt(2 / np.pi)
    ternary = scale * np.clip(np.rint(grid / scale), -1, 1)
    expected = np.sqrt(((grid - ternary) ** 2 * density).sum() * (grid[1] - grid[0]))
    assert error.relative == pytest.approx(expected, abs=2e-3)
    assert error.off_grid > 0.99


def test_refusal_lists_every_matrix_worst_first() -> None:
    good = ternary_error("good", codes((8, 64)) * np.float32(0.5) + np.float32(0.01))
    bad = ternary_error("bad", RNG.normal(size=(8, 64)).astype(np.float32))
    with pytest.raises(FormatError, match=r"2 matrices.*bad \(relative error 0\.\d+.*good"):
        refuse_not_ternary([good, bad], "model")
    refuse_not_ternary([], "model")


@pytest.mark.parametrize("share_of_zeros", [0.0, 0.1, 0.37, 0.9, 0.999])
@pytest.mark.parametrize("seed", range(6))
def test_masters_quantize_back_to_the_same_codes_and_scale(
    share_of_zeros: float, seed: int
) -> None:
    scale = np.float32(np.float16(np.random.default_rng(seed).uniform(1e-3, 0.2)))
    wanted = Ternary(codes((64, 96), share_of_zeros), scale)
    found = quantize_master(master_weights(wanted, "w"))
    assert np.array_equal(found.codes, wanted.codes)
    if wanted.codes.any():
        assert found.scale == wanted.scale


def test_masters_of_zeros_and_of_too_small_a_scale() -> None:
    zeros = Ternary(np.zeros((4, 8), np.int8), np.float32(0))
    assert not master_weights(zeros, "w").any()
    with pytest.raises(FormatError, match="smallest scale"):
        master_weights(Ternary(codes((4, 8)), np.float32(1e-6)), "w")


@pytest.mark.parametrize("scale", [1e-7, 525.5 * 2.0**-24, 7e4])
def test_scales_that_float16_would_spoil(scale: float) -> None:
    ternary = Ternary(codes((4, 8)), np.float32(scale))
    with pytest.raises(FormatError, match="i2_s"):
        round_scale_to_f16(ternary, "w")


def test_ordinary_scales_are_rounded_once() -> None:
    ternary = Ternary(codes((4, 8)), np.float32(0.0123456))
    assert round_scale_to_f16(ternary, "w") == np.float32(np.float16(0.0123456))
