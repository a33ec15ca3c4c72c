"""Ops on anything against reference.py, bit for bit; `make test-isa` repeats it for every ISA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wrinklefree import ops, reference


@pytest.fixture(autouse=True, scope="module")
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def any_values(shape: tuple[int, ...], kind: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    if kind == "ties":  # with 127 in every row the codes are x, halves and all
        x = torch.randint(-254, 255, shape, generator=generator) * 0.5
        x[..., -1] = 127.0
    elif kind == "sizes":
        x *= 10.0 ** torch.randint(-20, 5, shape, generator=generator)
    elif kind == "zeros":
        x *= torch.randint(0, 2, shape, generator=generator)
    elif kind == "tiny":
        x *= 1e-39
    return x


def strided(x: torch.Tensor, strides: str) -> torch.Tensor:
    """The same values, not contiguous."""
    if strides == "transposed":
        return x.mT.contiguous().mT
    if strides == "sliced":
        padded = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 3)
        padded[..., 3::2] = x
        return padded[..., 3::2]
    if strides == "offset":  # no row begins at a multiple of anything
        padded = torch.zeros(x.numel() + 1)
        padded[1:] = x.flatten()
        return padded[1:].view(x.shape)
    return x


class Case(NamedTuple):
    """What an input is made of: short to print when a test fails."""

    batch: list[int]
    k: int
    kind: str
    seed: int
    dtype: torch.dtype
    strides: str
    threads: int

    def tensor(self) -> torch.Tensor:
        """[..., K]; torch is set to the number of threads."""
        torch.set_num_threads(self.threads)
        x = any_values((*self.batch, self.k), self.kind, self.seed)
        return strided(x, self.strides).to(self.dtype)

    def matrix(self) -> torch.Tensor:
        """The same with two dimensions."""
        return self.tensor().flatten(0, -2)


def cases(least: int) -> st.SearchStrategy[Case]:
    """Cases whose other dimensions are at least `least`."""
    return st.builds(
        Case,
        batch=st.lists(st.integers(least, 9), min_size=1, max_size=2),
        k=st.one_of(st.integers(1, 300), st.integers(1, 3000)),
        kind=st.sampled_from(["normal", "ties", "sizes", "zeros", "tiny"]),
        seed=st.integers(0, 2**31),
        dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        strides=st.sampled_from(["", "transposed", "sliced", "offset"]),
        threads=st.integers(1, 5),
    )


layouts = st.sampled_from(["t2", "t1", "lut"])
lambdas = st.sampled_from([0.0, 0.3, 1.0])


def random_codes(n: int, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n * k)
    return torch.randint(-1, 2, (n, k), generator=generator, dtype=torch.int8)


@settings(max_examples=150, deadline=None)
@given(case=cases(0), n=st.integers(1, 100), layout=layouts, has_bias=st.booleans())
def test_linear(case: Case, n: int, layout: ops.KernelLayout, has_bias: bool) -> None:
    x = case.tensor()
    codes, scale = random_codes(n, x.shape[-1]), torch.tensor(0.3)
    bias = any_values((n,), "normal", n) if has_bias else None
    packed = ops.pack_ternary(codes, scale, layout)
    y = ops.ternary_linear(x, packed, scale, n, bias, layout=layout)
    assert torch.equal(y, reference.ternary_linear(x, codes, scale, bias))


@settings(max_examples=100, deadline=None)
@given(
    m=st.integers(0, 40),
    n=st.integers(1, 100),
    k=st.integers(1, 700),
    layout=layouts,
    seed=st.integers(0, 2**31),
)
def test_sums(m: int, n: int, k: int, layout: ops.KernelLayout, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(-128, 128, (k, m), generator=generator, dtype=torch.int8).mT
    codes = random_codes(n, k)
    packed = ops.pack_ternary(codes, torch.tensor(1.0), layout)
    acc = ops.ternary_matmul_int32(q, packed, n, layout=layout)
    assert torch.equal(acc, reference.ternary_matmul_int32(q, codes))


@settings(max_examples=100, deadline=None)
@given(case=cases(0), lam=lambdas)
def test_activation_quantizers(case: Case, lam: float) -> None:
    x = case.tensor()
    for found, expected in zip(
        ops.quantize_act_int8(x), reference.quantize_act_int8(x), strict=True
    ):
        assert torch.equal(found, expected)
    assert torch.equal(ops.fake_quant_act(x, lam), reference.fake_quant_act(x, lam))


@settings(max_examples=100, deadline=None)
@given(case=cases(1), lam=lambdas)
def test_weight_quantizers(case: Case, lam: float) -> None:
    w = case.matrix()
    for found, expected in zip(ops.ternary_quantize(w), reference.ternary_quantize(w), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(ops.fake_quant_ternary(w, lam), reference.fake_quant_ternary(w, lam))
