"""CUDA kernels against the CPU ops: integers and scales bit for bit. Run by `make gpu-check`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from wrinklefree import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA device"),
]

OP = "wrinklefree::quantize_act_int8"
ROWS = [1, 2, 3, 8, 17, 65, 4097]
COLUMNS = [1, 2, 3, 31, 32, 33, 127, 128, 129, 576, 1023, 1024, 1025, 2560, 6912]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def random_x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def expect_equal(x_cpu: torch.Tensor, x_cuda: torch.Tensor) -> None:
    q, scale = ops.quantize_act_int8(x_cuda)
    expected_q, expected_scale = ops.quantize_act_int8(x_cpu)
    assert q.device == scale.device == x_cuda.device
    assert torch.equal(q.cpu(), expected_q)
    # As bits, so that a NaN equals itself.
    assert torch.equal(scale.cpu().view(torch.int32), expected_scale.view(torch.int32))


def test_the_kernel_is_ours() -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(OP, "CUDA")


@pytest.mark.parametrize("k", COLUMNS)
@pytest.mark.parametrize("m", ROWS)
def test_shapes(m: int, k: int) -> None:
    x = random_x(m, k)
    expect_equal(x, x.cuda())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_float_type(dtype: torch.dtype) -> None:
    x = random_x(33, 577).to(dtype)
    x[2, 3] = 6e4
    expect_equal(x, x.cuda())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_sixteen_bit_value(dtype: torch.dtype) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    expect_equal(x.reshape(256, 256), x.reshape(256, 256).cuda())


def test_special_rows() -> None:
    inf, nan, huge = float("inf"), float("nan"), torch.finfo(torch.float32).max
    values = [0.0, -0.0, 1e-5, 9.9e-6, 1e-30, 1e-40, 1e-45, 6e4, huge, -huge, inf, -inf, nan]
    x = random_x(3 * len(values), 300)
    for row, value in enumerate(values):
        x[3 * row] = value
        x[3 * row + 1, 299] = value
    x[-1, :10] = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0, 126.5, -126.5])
    x[-1, 10:] = 0  # the factor is exactly 1: ties to even
    expect_equal(x, x.cuda())


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 7), (2, 3, 5), (5,)], ids=str)
def test_empty_and_other_dimensions(shape: tuple[int, ...]) -> None:
    x = random_x(*shape)
    expect_equal(x, x.cuda())


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.zeros(3, 0)], ids=["scalar", "no column"])
def test_the_same_errors_as_on_cpu(x: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="quantize_act_int8: ") as on_cpu:
        ops.quantize_act_int8(x)
    message = str(on_cpu.value).splitlines()[0].split("quantize_act_int8: ")[1]
    with pytest.raises(RuntimeError) as on_cuda:
        ops.quantize_act_int8(x.cuda())
    assert message in str(on_cuda.value)


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
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(dtype: torch.dtype, view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    big = random_x(128, 128).to(dtype)
    expect_equal(view(big), view(big.cuda()))


def test_runs_on_the_current_stream() -> None:
    x = random_x(512, 4096)
    expected, _ = ops.quantize_act_int8(x)
    host = x.pin_memory()
    stream = torch.cuda.Stream()
    on_device = torch.zeros(512, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the producer is late: another stream would read zeros
        on_device.copy_(host, non_blocking=True)
        q, _ = ops.quantize_act_int8(on_device)
    stream.synchronize()
    assert torch.equal(q.cpu(), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_runs_on_the_device_of_its_input() -> None:
    x = random_x(17, 129)
    assert torch.cuda.current_device() == 0
    expect_equal(x, x.to("cuda:1"))
    assert torch.cuda.current_device() == 0


def test_opcheck_and_compile() -> None:
    x = random_x(5, 33).cuda()
    torch.library.opcheck(torch.ops.wrinklefree.quantize_act_int8.default, (x,))
    compiled = torch.compile(ops.quantize_act_int8, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(x), ops.quantize_act_int8(x), strict=True):
        assert torch.equal(got, expected)
