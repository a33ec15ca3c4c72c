"""Processes that train one model together (torchrun, data parallel).

Micro-batches are dealt to the processes in turn; denominators of the losses are those of the whole
step, gradients are summed. So the number of processes changes the order of sums and
nothing else: the same rows meet in the same step, and a run continues with any other number.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from wrinklefree.configs.config import DistributedConfig, RunConfig, SublnConfig
from wrinklefree.errors import UsageError

log = logging.getLogger(__name__)

T = TypeVar("T")

# Only the main process evaluates, draws samples and writes files; the others wait for it.
PATIENCE = datetime.timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train together; alone it is main, and every sum its own."""

    rank: int = 0
    size: int = 1
    is_sharded: bool = False  # fsdp2: each process holds a part of every tensor

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def share(self, micro_batches: int) -> int:
        """How many of a step's micro-batches are this process's."""
        assert micro_batches % self.size == 0  # see check_division
        return micro_batches // self.size

    def sum(self, values: Iterable[float]) -> list[float]:
        """Each value summed over the processes, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64, device=_device())
        if self.size > 1:
            dist.all_reduce(total)
        return [float(value) for value in total]

    def collect(self, value: T) -> list[T]:
        """The value of every process, in the order of ranks. It must be picklable."""
        if self.size == 1:
            return [value]
        found: list[T] = [value] * self.size
        dist.all_gather_object(found, value)
        return found

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        return self.sum([float(flag)])[0] > 0

    def keep_largest(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace every element by the largest among the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over the processes, the same bits in each of them. Those
        of shards are sums already."""
        if self.size == 1 or self.is_sharded:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        pending = [dist.all_reduce(gradient, async_op=True) for gradient in gradients]
        for work in pending:
            assert work is not None
            work.wait()

    def copy_from_main(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the parameters by those of the main process."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.detach(), src=0)

    def raise_together(self, error: Exception | None) -> None:
        """Raise the error of the lowest process that has one, in all of them."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        if not self.any(error is not None):
            return
        found = enumerate(self.collect(error))
        rank, first = next((r, e) for r, e in found if e is not None)
        raise type(first)(f"rank {rank}: {first}")

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The block runs in the main process before the others, which may find what it made."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


def _device() -> torch.device:
    is_nccl = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda" if is_nccl else "cpu")


def current_world() -> World:
    """The processes of `open_world`, or this one alone."""
    return _open[-1] if _open else World()


_open: list[World] = []


def num_started() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_division(config: RunConfig) -> None:
    """Raises UsageError for settings that the started processes cannot divide among them. Looks at
    settings alone, so that nobody waits for weights to hear it."""
    kind, training = config.distributed.kind, config.training
    if kind == "single":
        return
    if isinstance(training, SublnConfig):
        raise UsageError(
            f"training={training.stage} has nothing to divide among processes; start it with "
            "distributed=single and without torchrun"
        )
    if training.accumulation % num_started() != 0:
        raise UsageError(
            f"training.accumulation={training.accumulation} micro-batches a step cannot be divided "
            f"among {num_started()} processes; give a multiple of {num_started()}"
        )
    for name, is_set in (
        ("qk_clip", training.qk_clip > 0),
        ("shares_every", training.shares_every > 0),
        ("compile", training.compile),
    ):
        if is_set and kind == "fsdp2":
            raise UsageError(
                f"training.{name} needs whole parameters, which distributed=fsdp2 divides; switch "
                "it off, or use distributed=ddp"
            )


@contextlib.contextmanager
def open_world(config: DistributedConfig) -> Iterator[World]:
    """Connect the processes that torchrun started; NCCL with CUDA devices, else gloo.

    Raises UsageError when the setting and the way of starting do not fit.
    """
    if config.kind == "single":
        if num_started() > 1:
            raise UsageError(
                f"torchrun started {num_started()} processes and distributed=single is one: give "
                "distributed=ddp or fsdp2, or start wf-train without torchrun"
            )
        yield World()
        return
    if "RANK" not in os.environ:
        raise UsageError(
            f"distributed={config.kind} needs its processes: "
            f"torchrun --nproc-per-node=N --no-python wf-train distributed={config.kind} ..."
        )
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_cuda else "gloo", timeout=PATIENCE)
    world = World(dist.get_rank(), dist.get_world_size(), config.kind == "fsdp2")
    _open.append(world)
    if not world.is_main:
        logging.getLogger("wrinklefree").setLevel(logging.WARNING)
    log.info("training with %d processes", world.size)
    try:
        yield world
    finally:
        _open.pop()
        dist.destroy_process_group()
