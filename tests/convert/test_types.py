from __future__ import annotations

import pytest

from wrinklefree.convert.types import (
    F16,
    I2_S,
    Q4_0,
    TQ1_0,
    TQ2_0,
    TensorType,
    ternary_type,
    type_shares,
)
from wrinklefree.errors import FormatError, UsageError


@pytest.mark.parametrize(
    ("columns", "wanted", "chosen"),
    [
        (256, "auto", TQ2_0),
        (2560, "tq2_0", TQ2_0),
        (6912, "tq1_0", TQ1_0),
        (128, "i2_s", I2_S),
        (576, "auto", Q4_0),
        (576, "tq1_0", Q4_0),
        (576, "i2_s", Q4_0),
        (64, "tq2_0", Q4_0),
        (172, "auto", F16),
        (200, "i2_s", F16),
        (1, "tq2_0", F16),
    ],
)
def test_row_length_decides(columns: int, wanted: str, chosen: TensorType) -> None:
    choice = ternary_type(columns, wanted)
    assert choice.type is chosen
    fell_back = chosen in (Q4_0, F16)
    assert (choice.fallback is not None) == fell_back
    if choice.fallback:
        assert str(columns) in choice.fallback


def test_unknown_type_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'tq2_0'"):
        ternary_type(256, "tq20")


def test_bytes_per_ternary_weight() -> None:
    shape = (2560, 6912)
    weights = 2560 * 6912
    assert TQ2_0.num_bytes(shape) / weights <= 0.27
    assert I2_S.num_bytes(shape) / weights <= 0.27
    assert TQ1_0.num_bytes(shape) / weights <= 0.22
    assert I2_S.num_bytes(shape) == weights // 4 + 32


@pytest.mark.parametrize("name", ["TQ2_0", "tq2-0", "Tq2_0"])
def test_names_of_types_in_any_case(name: str) -> None:
    assert ternary_type(256, name).type is TQ2_0


@pytest.mark.parametrize("name", ["tl1", "TL2"])
def test_tiled_types_of_bitnet_cpp_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UsageError, match=r"kernels that bitnet\.cpp generates.*use i2_s"):
        ternary_type(256, name)


def test_block_must_divide_the_row() -> None:
    with pytest.raises(FormatError, match="576"):
        TQ2_0.num_bytes((4, 576))


def test_shares_add_up() -> None:
    sizes = [(kind, (rows, 256)) for kind, rows in ((F16, 1), (TQ2_0, 4), (TQ2_0, 2))]
    shares = type_shares((kind.name, r * c, kind.num_bytes((r, c))) for kind, (r, c) in sizes)
    assert [(share.type, share.tensors, share.parameters) for share in shares] == [
        ("TQ2_0", 2, 1536),
        ("F16", 1, 256),
    ]
    assert shares[0].bits_per_weight == pytest.approx(2.0625)
    assert sum(share.share for share in shares) == pytest.approx(1.0)
