"""Each loss against a slow float64 reference; finite gradients where formulas divide by 0."""

from __future__ import annotations

import pytest
import torch

from wrinklefree.errors import UsageError
from wrinklefree.training.losses import (
    allowed_split_heads,
    attention_relation,
    check_split_heads,
    hidden_state_distance,
    layer_weights,
)

# Two documents and padding, one document, one token, only padding.
DOCUMENTS = torch.tensor(
    [[0, 0, 0, 1, 1, -1, -1], [0] * 7, [0] + [-1] * 6, [-1] * 7], dtype=torch.int64
)
SPLIT_HEADS = 4


def states(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((4, 8), (2, 8), (2, 8))  # heads and width of Q, K, V
    return tuple(torch.randn(4, h, 7, n, generator=generator) for h, n in sizes)  # type: ignore[return-value]


def relation(
    student: tuple[torch.Tensor, ...],
    teacher: tuple[torch.Tensor, ...],
    normalisation: str = "bitdistill",
) -> torch.Tensor:
    count = int((DOCUMENTS >= 0).sum())
    return attention_relation(
        student,
        teacher,
        DOCUMENTS,
        split_heads=SPLIT_HEADS,
        normalisation=normalisation,
        num_layers=2,
        count=count,
    )


def reference_relation(
    student: tuple[torch.Tensor, ...], teacher: tuple[torch.Tensor, ...]
) -> float:
    """Row by row in float64: only the tokens of a row's own document take part in its softmax."""
    total, num_rows = 0.0, int((DOCUMENTS >= 0).sum()) * SPLIT_HEADS
    for own, goal in zip(student, teacher, strict=True):
        for b, head, t in torch.cartesian_prod(*map(torch.arange, (4, SPLIT_HEADS, 7))).tolist():
            if DOCUMENTS[b, t] < 0:
                continue
            others = [u for u in range(7) if DOCUMENTS[b, u] == DOCUMENTS[b, t]]
            rows = []
            for state in (own, goal):
                flat = state[b].transpose(0, 1).reshape(7, SPLIT_HEADS, -1)[:, head].double()
                unit = flat / flat.norm(dim=-1, keepdim=True)
                rows.append(torch.softmax(unit[others] @ unit[t], 0))
            total += float((rows[1] * (rows[1] / rows[0]).log()).sum())
    return total / num_rows / (2 * SPLIT_HEADS)


def test_relation_equals_the_reference() -> None:
    student, teacher = states(0), states(1)
    assert float(relation(student, teacher)) == pytest.approx(
        reference_relation(student, teacher), rel=1e-5
    )


def test_relation_is_float32_inside_autocast() -> None:
    """Near tokens, as a trained model has them: bfloat16 cosines would be off by percents."""
    common = states(2)
    student, teacher = (
        tuple(10 * base + state for base, state in zip(common, states(seed), strict=True))
        for seed in (0, 1)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = float(relation(student, teacher))
    assert inside == float(relation(student, teacher))


def test_the_mean_is_not_divided_by_the_heads_once_more() -> None:
    student, teacher = states(0), states(1)
    mean = float(relation(student, teacher, "mean"))
    assert mean == pytest.approx(SPLIT_HEADS * reference_relation(student, teacher), rel=1e-5)


def test_relation_of_equal_states_is_zero() -> None:
    assert float(relation(states(0), states(0))) == 0.0


def test_relation_accepts_other_head_counts_of_the_same_width() -> None:
    student, teacher = states(0), states(1)
    merged = tuple(state.transpose(1, 2).flatten(2)[:, None] for state in teacher)
    assert torch.equal(relation(student, teacher), relation(student, merged))


def test_relation_gradients_are_finite_and_zero_on_padding() -> None:
    student = tuple(state.requires_grad_() for state in states(0))
    with torch.no_grad():
        student[2][0] = 0.0  # an all-zero value state
    relation(student, states(1)).backward()
    is_padding = DOCUMENTS < 0
    for state in student:
        assert state.grad is not None
        assert torch.isfinite(state.grad).all()
        assert state.grad.transpose(1, 2)[is_padding].abs().max() == 0.0
        assert state.grad.transpose(1, 2)[~is_padding].abs().max() > 0.0
    one_token = student[0].grad[2, :, 0]  # a softmax over one entry has nothing to learn
    assert one_token.abs().max() == 0.0


def test_split_heads_must_divide_with_four_dimensions() -> None:
    assert allowed_split_heads(64, 32) == [1, 2, 4, 8]
    assert 32 in allowed_split_heads(576, 192)  # SmolLM2-135M
    assert 32 in allowed_split_heads(2048, 1024)  # Qwen3-0.6B
    check_split_heads(8, 64, 32)
    for wrong in (3, 16, 32):
        with pytest.raises(UsageError, match="allowed are 1, 2, 4, 8"):
            check_split_heads(wrong, 64, 32)


def test_hidden_state_distance_is_twice_one_minus_cosine() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(7, 16), 50 * torch.randn(7, 16)
    cosine = torch.nn.functional.cosine_similarity(student.double(), teacher.double())
    expected = float((2 * (1 - cosine)).mean())
    assert float(hidden_state_distance(student, teacher, count=7)) == pytest.approx(
        expected, rel=1e-5
    )


def test_layer_weights_have_mean_one() -> None:
    assert layer_weights(4, "uniform") == [1.0] * 4
    late = layer_weights(4, "late")
    assert sum(late) == pytest.approx(4.0)
    assert late[3] == pytest.approx(4 * late[0])
