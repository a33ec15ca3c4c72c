"""SubLN against its formula."""

from __future__ import annotations

import pytest
import torch

from wrinklefree.models import SubLN
from wrinklefree.models.blend import Blend


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_formula_in_float64(lam: float) -> None:
    norm, x = SubLN(19, eps=1e-5, blend=Blend(lam)), torch.randn(2, 5, 19) * 10
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    x64 = x.double()
    rms = (x64.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = (1 - lam) * x64 + lam * norm.weight.detach().double() * x64 / rms
    torch.testing.assert_close(norm(x).double(), expected, atol=1e-6, rtol=1e-6)


def test_lambda_0_returns_the_input_itself() -> None:
    norm, x = SubLN(19, eps=1e-5, blend=Blend(0.0)), torch.randn(2, 19)
    assert norm(x) is x


def test_zero_rows_stay_zero() -> None:
    norm = SubLN(19, eps=1e-5, blend=Blend(1.0))
    assert not norm(torch.zeros(2, 19)).any()


def test_float16_input_is_squared_in_float32() -> None:
    """Values of 1000 square to more than float16 holds."""
    norm, x = SubLN(64, eps=1e-5, blend=Blend(1.0)), (torch.randn(3, 64) * 1000).half()
    y = norm(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float().square().mean(-1), torch.ones(3), atol=0.01, rtol=0)
