"""The chunked head losses equal the plain ones, with less memory."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from wrinklefree.data.encode import IGNORE
from wrinklefree.training import head_loss
from wrinklefree.training.head_loss import HeadInput, Losses, head_losses

POSITIONS, WIDTH, VOCABULARY = 37, 24, 131


class Problem(NamedTuple):
    student: HeadInput
    teacher: HeadInput
    targets_P: torch.Tensor

    def to(self, dtype: torch.dtype) -> Problem:
        return Problem(
            HeadInput(*(t.detach().to(dtype).requires_grad_() for t in self.student)),
            HeadInput(*(t.to(dtype) for t in self.teacher)),
            self.targets_P,
        )


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """Four chunks, the last of one row; every third position has no label."""
    monkeypatch.setattr(head_loss, "CHUNK_ROWS", 12)
    torch.manual_seed(0)
    targets_P = torch.randint(0, VOCABULARY, (POSITIONS,))
    targets_P[::3] = IGNORE
    student, teacher = (
        HeadInput(torch.randn(POSITIONS, WIDTH), torch.randn(VOCABULARY, WIDTH)) for _ in range(2)
    )
    return Problem(student, teacher, targets_P).to(torch.float32)


def plain_losses(
    problem: Problem, *, ce_scale: float, kd_scale: float, tau: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from whole logits."""
    logits = (problem.student.hidden_PD @ problem.student.weight_VD.T).to(torch.float64)
    teacher = (problem.teacher.hidden_PD @ problem.teacher.weight_VD.T).to(torch.float64)
    ce = F.cross_entropy(logits, problem.targets_P, ignore_index=IGNORE, reduction="sum")
    log_p, log_q = (F.log_softmax(z / tau, -1) for z in (teacher, logits))
    kd = F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    return ce * ce_scale, kd * (kd_scale * tau**2)


def gradients(loss: torch.Tensor, student: HeadInput) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, tuple(student), retain_graph=True)


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("ce_scale", "kd_scale", "tau"), [(1 / 24, 0.0, 1.0), (0.0, 1 / 37, 5.0), (0.2, 0.7, 2.0)]
)
def test_losses_and_gradients_equal_the_plain_ones(
    problem: Problem, ce_scale: float, kd_scale: float, tau: float
) -> None:
    scales = {"ce_scale": ce_scale, "kd_scale": kd_scale, "tau": tau}
    found = head_losses(problem.student, problem.targets_P, teacher=problem.teacher, **scales)
    exact = problem.to(torch.float64)
    expected = plain_losses(exact, **scales)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=2e-6)
    for ours, theirs in zip(
        gradients(sum(found, start=torch.zeros(())), problem.student),
        gradients(sum(expected, start=torch.zeros(())), exact.student),
        strict=True,
    ):
        assert largest_error(ours, theirs) < 2e-6


@pytest.mark.parametrize("padded", ["student", "teacher"])
@pytest.mark.parametrize("ce_scale", [0.0, 0.2])
def test_padding_rows_of_one_head_are_not_compared(
    problem: Problem, padded: str, ce_scale: float
) -> None:
    """The KL and its gradient are those of the rows that both have."""
    scales = {"kd_scale": 0.7, "tau": 2.0}
    _, expected = plain_losses(problem, ce_scale=0.0, **scales)
    rows = torch.full((5, WIDTH), 0.3)

    def pad(head: HeadInput) -> HeadInput:
        weight = torch.cat([head.weight_VD.detach(), rows]).requires_grad_()
        return HeadInput(head.hidden_PD, weight)

    student, teacher = problem.student, problem.teacher
    if padded == "student":
        student = pad(student)
    else:
        teacher = pad(teacher)
    _, kd = head_losses(student, problem.targets_P, teacher=teacher, ce_scale=ce_scale, **scales)
    assert kd.item() == pytest.approx(expected.item(), rel=1e-5)
    hidden, weight = gradients(kd, student)
    for ours, theirs in zip(
        (hidden, weight[:VOCABULARY]), gradients(expected, problem.student), strict=True
    ):
        assert largest_error(ours, theirs) < 1e-5
    assert not weight[VOCABULARY:].any()


def test_bfloat16_products_err_no_more_than_those_of_plain_losses(problem: Problem) -> None:
    scales = {"ce_scale": 0.2, "kd_scale": 0.7, "tau": 2.0}
    exact = problem.to(torch.float64)
    expected = gradients(sum(plain_losses(exact, **scales)), exact.student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head_losses(problem.student, problem.targets_P, teacher=problem.teacher, **scales)
        theirs = plain_losses(problem, **scales)
    assert ours[0].dtype == torch.float32
    for found, plain, goal in zip(
        gradients(sum(ours, start=torch.zeros(())), problem.student),
        gradients(sum(theirs), problem.student),
        expected,
        strict=True,
    ):
        assert found.dtype == torch.float32
        assert largest_error(found, goal) <= 2 * largest_error(plain, goal)


def test_each_loss_has_a_gradient_of_its_own_and_backward_may_be_repeated(
    problem: Problem,
) -> None:
    ce, kd = head_losses(
        problem.student, problem.targets_P, ce_scale=0.5, teacher=problem.teacher, kd_scale=0.25
    )
    total = gradients(ce + kd, problem.student)
    apart = zip(gradients(ce, problem.student), gradients(kd, problem.student), strict=True)
    for whole, parts in zip(total, apart, strict=True):
        assert all(float(part.abs().max()) > 0 for part in parts)
        torch.testing.assert_close(sum(parts), whole)
    for tripled, whole in zip(gradients(3 * (ce + kd), problem.student), total, strict=True):
        torch.testing.assert_close(tripled, 3 * whole)


def test_a_frozen_head_gets_no_gradient(problem: Problem) -> None:
    hidden_PD, weight_VD = problem.student
    weight_VD.requires_grad_(False)
    head_losses(problem.student, problem.targets_P)[0].backward()
    assert hidden_PD.grad is not None
    assert float(hidden_PD.grad.abs().max()) > 0
    assert weight_VD.grad is None


def test_positions_without_label_or_teacher_get_no_gradient(problem: Problem) -> None:
    head_losses(problem.student, problem.targets_P)[0].backward()
    grad_PD = problem.student.hidden_PD.grad
    assert grad_PD is not None
    rows = grad_PD.abs().amax(-1)
    assert torch.equal(rows > 0, problem.targets_P != IGNORE)


def test_losses_of_nothing_are_zero(problem: Problem) -> None:
    none = HeadInput(torch.zeros(0, WIDTH, requires_grad=True), problem.student.weight_VD)
    ce, kd = head_losses(none, problem.targets_P[:0], teacher=none, kd_scale=1.0)
    (ce + kd).backward()
    assert ce.item() == kd.item() == 0.0
    grad_VD = problem.student.weight_VD.grad
    assert grad_VD is not None
    assert float(grad_VD.abs().max()) == 0.0


def test_tokens_that_the_teacher_excludes_are_finite() -> None:
    logits_CV, teacher_CV = torch.randn(3, 6), torch.randn(3, 6)
    teacher_CV[:, 2] = -math.inf
    only_kd = Losses(torch.zeros(3, dtype=torch.int64), None, 0.0, 1.0, 5.0)
    _, kd, grad_CV = head_loss._chunk_losses(logits_CV, teacher_CV, only_kd)
    assert torch.isfinite(kd)
    assert torch.isfinite(grad_CV).all()
    assert float(grad_CV[:, 2].min()) > 0.0  # the student is still pushed down there


# In a process of its own: the peak is that of the whole process.
PEAK = """
import resource
import torch
from wrinklefree.training.head_loss import HeadInput, head_losses

torch.set_num_threads(1)
rows, width, vocabulary = 2048, 16, 49152
student = HeadInput(torch.randn(rows, width), torch.randn(vocabulary, width))
for tensor in student:
    tensor.requires_grad_()
targets = torch.randint(0, vocabulary, (rows,))

def run(positions):
    chosen = HeadInput(student.hidden_PD[:positions], student.weight_VD)
    teacher = HeadInput(chosen.hidden_PD.detach(), student.weight_VD.detach())
    ce, kd = head_losses(chosen, targets[:positions], teacher=teacher, kd_scale=1.0, tau=2.0)
    (ce + kd).backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

print(run(256), run(rows))
"""


def test_memory_does_not_grow_with_the_positions() -> None:
    """Logits of 2048 positions would be 403 MB; eight chunks take what one takes."""
    result = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one_chunk, all_chunks = map(int, result.stdout.split())
    assert all_chunks - one_chunk < 2048 * 49152 * 4 / 4
