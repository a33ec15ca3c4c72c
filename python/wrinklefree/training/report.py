"""The report of a run: pictures of its log and weights, as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from wrinklefree import plots
from wrinklefree.errors import FormatError, UsageError
from wrinklefree.models.checkpoint import Loaded, is_artifact, load_artifact
from wrinklefree.training import report_plots as draw
from wrinklefree.training.metrics import METRICS_NAME
from wrinklefree.training.weight_histograms import weight_histograms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE = Path(__file__).with_name("report.html.jinja")
NUM_SAMPLES = 12  # the last ones


@dataclass(frozen=True, slots=True)
class Log:
    """The entries of metrics.jsonl by kind, in the order they were written."""

    train: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    samples: list[dict[str, Any]]


def read_log(run: Path) -> Log:
    """Raises UsageError for a directory without a log, FormatError for a damaged one."""
    path = run / METRICS_NAME
    if not path.is_file():
        raise UsageError(f"{run} holds no {METRICS_NAME}: give the `out` of a training stage")
    kinds: dict[str, list[dict[str, Any]]] = {"train": [], "eval": [], "sample": []}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            kinds[entry["kind"]].append({**entry, "step": int(entry["step"])})
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                continue  # a run that is being written, or died while it wrote
            raise FormatError(f"{path}, line {number} is damaged") from None
    if not kinds["train"]:
        raise UsageError(f"{path} holds no training step yet")
    return Log(kinds["train"], kinds["eval"], kinds["sample"])


def write_report(run: Path, out: Path) -> Path:
    """Write report.md with PNG files beside it and report.html with all in one; returns that.

    Works on finished runs and on checkpoints. Raises UsageError without matplotlib or a log.
    """
    log = read_log(run)
    if not is_artifact(run):
        raise UsageError(f"{run} has a log, but no checkpoint yet: try again after the first one")
    plots.check_installed()
    artifact = load_artifact(run)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw_it in _pictures(log, artifact).items():
        with plots.picture(out / f"{name}.png") as axes:
            draw_it(axes)
        written.append(name)
    facts = _facts(log, artifact)
    title = f"{artifact.manifest.stage}: {run.resolve().name}"
    samples, recipe = log.samples[-NUM_SAMPLES:], json.dumps(artifact.manifest.recipe, indent=2)
    (out / "report.md").write_text(
        _markdown(title, facts, written, samples, recipe), encoding="utf-8"
    )
    pictures = [(name, (out / f"{name}.png").read_bytes()) for name in written]
    template = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    text = template.render(
        title=title,
        facts=facts,
        pictures=[(name, base64.b64encode(data).decode()) for name, data in pictures],
        samples=samples,
        recipe=recipe,
    )
    html = out / "report.html"
    html.write_text(text, encoding="utf-8")
    return html


def _pictures(log: Log, artifact: Loaded) -> dict[str, Callable[[Axes], None]]:
    histograms = weight_histograms(artifact.model)
    pictures: dict[str, Callable[[Axes], None]] = {
        "loss": partial(draw.draw_loss, train=log.train, evaluations=log.evaluations),
    }
    if draw.names(log.evaluations, "accuracy"):
        pictures["accuracy"] = partial(draw.draw_accuracy, evaluations=log.evaluations)
    pictures["rates"] = partial(draw.draw_rates, train=log.train)
    pictures["gradient"] = partial(draw.draw_gradient, train=log.train)
    if draw.names(log.train, "grad_share_"):
        pictures["shares"] = partial(draw.draw_shares, train=log.train)
    pictures["latent"] = partial(draw.draw_latent, histograms=histograms)
    if histograms.codes is not None:
        pictures["codes"] = partial(draw.draw_codes, histograms=histograms)
    return pictures


def _facts(log: Log, artifact: Loaded) -> list[tuple[str, str]]:
    speeds = sorted(entry["tokens_per_s"] for entry in log.train)
    done, total = (artifact.manifest.metrics.get(key) for key in ("steps", "total_steps"))
    facts = [
        ("steps", f"{log.train[-1]['step'] + 1} logged, {done} of {total} in the artifact"),
        ("tokens", f"{sum(entry['tokens'] for entry in log.train):,}"),
        ("tokens per second", f"{speeds[len(speeds) // 2]:,.0f} (median of the steps)"),
        ("loss", f"{log.train[0]['loss']:.4g} at the first step, {log.train[-1]['loss']:.4g} last"),
    ]
    _, held_out = draw.series(log.evaluations, "cross_entropy")
    if held_out:
        text = f"{held_out[0]:.4f} at first, {held_out[-1]:.4f} last"
        facts.append(("held-out cross-entropy", f"{text} (nats per label)"))
    _, accuracy = draw.series(log.evaluations, "accuracy")
    if accuracy:
        facts.append(("held-out accuracy", f"{accuracy[0]:.4f} at first, {accuracy[-1]:.4f} last"))
    facts.append(("lambda", f"{artifact.manifest.lam:g}, SubLN {artifact.manifest.subln}"))
    return facts


def _markdown(
    title: str,
    facts: list[tuple[str, str]],
    pictures: list[str],
    samples: list[dict[str, Any]],
    recipe: str,
) -> str:
    rows = [f"| {name} | {value} |" for name, value in facts]
    lines = [f"# {title}", "", "| | |", "|---|---|", *rows, ""]
    lines += [f"![{name}]({name}.png)\n" for name in pictures]
    if samples:
        lines += ["## Samples", ""]
        lines += [f"- step {s['step']}: {json.dumps(s['prompt'] + s['text'])}" for s in samples]
    return "\n".join([*lines, "", "## Settings", "", "```json", recipe, "```", ""])
