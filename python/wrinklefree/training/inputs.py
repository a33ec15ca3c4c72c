"""What a run trains and is measured on: rows in memory, or a stream."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from wrinklefree.configs.config import DataConfig, GradientConfig
from wrinklefree.data.loader import Batches, Loader
from wrinklefree.data.packing import TokenRows, tokenize
from wrinklefree.data.readers import Shard
from wrinklefree.data.sources import is_hub, read_records
from wrinklefree.data.stream import StreamLoader
from wrinklefree.errors import UsageError
from wrinklefree.training.continuity import PROBE_ROWS
from wrinklefree.training.dealing import deal
from wrinklefree.training.distributed import World

log = logging.getLogger(__name__)

HELD_OUT_ROWS = 32  # when data.eval_rows is not given


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows (None when they are streamed), and evaluation rows if there are any."""

    train: TokenRows | None
    evaluation: TokenRows | None


@dataclass(frozen=True, slots=True)
class Inputs:
    """An open loader, to be closed, with the rows it draws from and a sample of them."""

    loader: Batches
    rows: Rows
    sample: TokenRows  # all training rows, or the first of a stream


def is_streamed(config: DataConfig) -> bool:
    """Whether rows are made while training: as data.streaming says, else by the source."""
    if config.streaming is not None:
        return config.streaming
    if config.mixture is not None:
        return True
    return config.format == "text" and config.path is not None and is_hub(config.path)


def open_inputs(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    seed: int,
    num_sample: int = 0,
    world: World = World(),  # noqa: B008 (frozen)
) -> Inputs:
    """Loader of this process's batches, rows, and a sample of `num_sample` rows or more (enough
    for the continuity probe).

    Raises UsageError or FormatError for data that cannot be read.
    """
    rows = load_rows(config, tokenizer)
    if rows.train is not None:
        loader = deal(Loader(rows.train, batch_size=batch_size, seed=seed), world)
        return Inputs(loader, rows, rows.train)
    # A stream of its own, so that the sample takes nothing from the training.
    first = StreamLoader(replace(config, workers=0), tokenizer, batch_size=1, seed=seed)
    with contextlib.closing(first):
        sample = first.take(max(num_sample, PROBE_ROWS))
    shard = Shard(world.rank, world.size)
    stream = StreamLoader(config, tokenizer, batch_size=batch_size, seed=seed, shard=shard)
    return Inputs(deal(stream, world), rows, sample)


def load_rows(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Tokenize what is not streamed. Without data.eval_path the last rows of data in memory, at
    most a tenth, are held out; a stream has no last rows."""
    train = None
    if not is_streamed(config):
        train = tokenize(read_records(config), tokenizer, max_length=config.max_length)
        _log_counts(train, config.max_length)
    if config.eval_path is not None and config.eval_rows != 0:
        records = read_records(config, config.eval_path)
        evaluation = tokenize(records, tokenizer, max_length=config.max_length)
        _log_counts(evaluation, config.max_length, what="evaluation ")
        if config.eval_rows is not None and config.eval_rows < len(evaluation):
            log.info(
                "evaluating the first %d of %d rows of %s: data.eval_rows=%d",
                *(config.eval_rows, len(evaluation), config.eval_path, config.eval_rows),
            )
            evaluation, _ = evaluation.split(config.eval_rows)
        return Rows(train, evaluation)
    wanted = HELD_OUT_ROWS if config.eval_rows is None else config.eval_rows
    if train is None:
        if wanted > 0:
            log.info("no evaluation: streamed data needs data.eval_path=FILE")
        return Rows(None, None)
    num_held_out = min(wanted, len(train) // 10)
    if num_held_out == 0:
        return Rows(train, None)
    kept, evaluation = train.split(len(train) - num_held_out)
    return Rows(kept, evaluation)


def num_steps(config: GradientConfig, rows: TokenRows | None) -> int:
    """Optimizer steps of a run. Raises UsageError for a stream without training.steps."""
    if config.steps is not None:
        return config.steps
    if rows is None:
        raise UsageError(
            "streamed data has no known length; give training.steps=N (tokens = steps * "
            "accumulation * batch_size * data.max_length)"
        )
    batches = math.ceil(len(rows) / config.batch_size)
    return max(1, math.ceil(config.epochs * batches / config.accumulation))


def _log_counts(rows: TokenRows, max_length: int, *, what: str = "") -> None:
    if rows.skipped:
        log.info(
            "skipped %d of %d %srecords: longer than data.max_length=%d",
            *(rows.skipped, rows.skipped + len(rows), what, max_length),
        )
    if rows.truncated:
        log.info(
            "cut %d of %d %sarticles to fit in data.max_length=%d",
            *(rows.truncated, len(rows), what, max_length),
        )
