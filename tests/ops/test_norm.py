"""RMS norm of training against float64, and inside the ternary product against the engine's way."""

from __future__ import annotations

import pytest
import torch

from wrinklefree import ops, reference

EPS = 1e-5
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gains(k: int) -> torch.Tensor:
    return 0.5 + torch.rand(k, generator=torch.Generator().manual_seed(7))


def norm_float64(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("k", [1, 7, 8, 16, 33, 576, 1537])
@pytest.mark.parametrize("rows", [1, 31, 33, 100])
def test_result_and_gradients(rows: int, k: int, dtype: torch.dtype) -> None:
    x = (3 * random(rows, k)).to(dtype).requires_grad_()
    gain = gains(k).requires_grad_()
    upstream = random(rows, k, seed=1).to(dtype)
    y = ops.rms_norm(x, gain, EPS)
    assert y.dtype == dtype
    y.backward(upstream)

    x64, gain64 = (t.detach().double().requires_grad_() for t in (x, gain))
    expected = norm_float64(x64, gain64)
    expected.backward(upstream.double())
    step = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=step, atol=1e-6)
    assert x.grad is not None
    assert gain.grad is not None
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=step, atol=2e-6)
    # Sums over rows of numbers that were read exactly.
    torch.testing.assert_close(gain.grad.double(), gain64.grad, rtol=2e-6, atol=1e-5)


def test_types_of_gradient_and_input_may_differ() -> None:
    x, gain, grad = random(5, 64), gains(64), random(5, 64, seed=1).to(torch.bfloat16)
    for found, expected in zip(
        ops.rms_norm_backward(grad, x, gain, EPS),
        ops.rms_norm_backward(grad.float(), x, gain, EPS),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_zero_rows_extremes_and_nan_stay_in_their_rows() -> None:
    x, gain = random(5, 40), gains(40)
    plain = ops.rms_norm(x, gain, EPS)
    x[1], x[2], x[3, 4] = 0, 1e18, torch.nan
    y = ops.rms_norm(x, gain, EPS)
    assert not y[1].any()
    torch.testing.assert_close(y[2], gain)
    assert y[3].isnan().all()
    assert torch.equal(y[::4], plain[::4])
    x_grad, gain_grad = ops.rms_norm_backward(random(5, 40, seed=1)[:3], x[:3], gain, EPS)
    assert x_grad.isfinite().all()
    assert gain_grad.isfinite().all()


@pytest.mark.parametrize(
    "view",
    [
        lambda big: big[::2, 3:103],
        lambda big: big[:100, :8].t(),
        lambda big: big[:1, 5:105].expand(4, 100),
        lambda big: big.flatten()[7 : 7 + 300].reshape(3, 100),
    ],
    ids=["sliced", "transposed", "expanded", "offset"],
)
def test_strides_do_not_matter(view: object) -> None:
    assert callable(view)
    x, grad = view(random(128, 128)), view(random(128, 128, seed=1))
    gain = gains(x.shape[-1])
    assert torch.equal(ops.rms_norm(x, gain, EPS), ops.rms_norm(x.contiguous(), gain, EPS))
    for found, expected in zip(
        ops.rms_norm_backward(grad, x, gain, EPS),
        ops.rms_norm_backward(grad.contiguous(), x.contiguous(), gain, EPS),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_threads_do_not_change_bits() -> None:
    x, gain, grad = random(333, 640), gains(640), random(333, 640, seed=1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append((ops.rms_norm(x, gain, EPS), *ops.rms_norm_backward(grad, x, gain, EPS)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_normed_product_quantizes_the_norm_in_float32(dtype: torch.dtype) -> None:
    x, gain, w = random(9, 130).to(dtype), gains(130), 0.1 * random(50, 130, seed=2)
    packed, scale = ops.ternary_pack(w)
    _, q, q_scale = ops.ternary_linear_codes(x, packed, scale, 50, None, torch.float32, gain, EPS)
    expected_q, expected_scale = ops.quantize_act_int8(ops.rms_norm(x.float(), gain, EPS))
    assert torch.equal(q[:, :130], expected_q)
    assert torch.equal(q_scale, expected_scale)


def test_sizes_that_do_not_fit_are_refused() -> None:
    x, gain = random(3, 8), gains(9)
    with pytest.raises(RuntimeError, match="gain must have 8"):
        ops.rms_norm(x, gain, EPS)
    with pytest.raises(RuntimeError, match="one shape"):
        ops.rms_norm_backward(x[:2], x, gain[:8], EPS)
    packed, scale = ops.ternary_pack(random(4, 8))
    with pytest.raises(RuntimeError, match="gain must have 8"):
        ops.ternary_linear_codes(x, packed, scale, 4, None, torch.float32, gain, EPS)


def test_the_reference_is_the_same_formula() -> None:
    x, gain, grad = random(6, 77), gains(77), random(6, 77, seed=1)
    torch.testing.assert_close(ops.rms_norm(x, gain, EPS), reference.rms_norm(x, gain, EPS))
    for found, expected in zip(
        ops.rms_norm_backward(grad, x, gain, EPS),
        reference.rms_norm_backward(grad, x, gain, EPS),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
