"""python bench/pretraining.py BASE CORPUS OUT --judge NAME=FILE [--judge ...] [--steps 24,48,96]

Perplexity of a ternary student of the float model BASE against the tokens it has seen: stage 1,
stage 1.9 from solved weights, then stage 2 on CORPUS, once with the labels alone, as published, and
once with the teacher's probabilities of all tokens beside them. The student is measured at each of
--steps, counted from the start of stage 1.9; rows are 256 tokens, 4 of them a step. Each FILE is a
text that CORPUS does not hold. Finished parts below OUT are kept; the table is written to
OUT/report.md.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import click

from machine import Commands, Machine

ROW_TOKENS, BATCH = 256, 4
LOOP = (
    *(f"data.max_length={ROW_TOKENS}", f"training.batch_size={BATCH}", "data.eval_rows=16"),
    *("training.schedule=constant", "training.lr=2e-4", "training.beta2=.98"),
    *("training.save_every=0", "training.eval_every=0", "training.freeze=[embed]"),
)
TEACHER_KL = ("training.kd_weight=1", "training.kd_tau=1", "training.kd_positions=all")
VARIANTS = {"labels": (), "labels and teacher": TEACHER_KL}


@click.command()
@click.argument("base")
@click.argument("corpus")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--judge", multiple=True, required=True, help="NAME=FILE, a text for perplexity.")
@click.option("--steps", default="24,48,96,192", help="The first are those of stage 1.9.")
@click.option("--windows", default=60, help="Of 256 tokens, from each FILE.")
@click.option("--jobs", default=1, help="Runs side by side, on cores of their own.")
def main(
    base: str, corpus: str, out: Path, judge: tuple[str, ...], steps: str, windows: int, jobs: int
) -> None:
    machine = Machine(jobs)
    texts = dict(text.split("=", 1) for text in judge)
    marks = [int(step) for step in steps.split(",")]
    first, solved = out / "s1", out / "s19"
    machine.map([begin(base, corpus, first, solved, marks[0])])
    runs = {f"stage 1.9, {marks[0]} steps": solved}
    chains: list[Commands] = []
    for name, settings in VARIANTS.items():
        parent, commands = solved, []
        for done, mark in pairwise(marks):
            leg = out / f"{name.replace(' ', '-')}-{mark}"
            commands.append(
                (
                    *("wf-train", "training=stage2_pretrain", f"model.path={parent}"),
                    *(f"out={leg}", f"data.path={corpus}", *LOOP, f"training.steps={mark - done}"),
                    *(f"training.seed={mark}", *settings),
                    *((f"training.teacher={base}",) if settings else ()),
                )
            )
            runs[f"{name}, {mark} steps"] = parent = leg
        chains.append(tuple(commands))
    machine.map(chains)

    runs = {"teacher": Path(base)} | runs
    questions = [(path, text) for path in runs.values() for text in texts.values()]
    answers = machine.map([perplexity(path, text, windows)] for path, text in questions)
    found = {
        question: json.loads(answer)["results"]["ppl"]["metrics"]["perplexity"]["value"]
        for question, (answer,) in zip(questions, answers, strict=True)
    }
    lines = [f"| model | tokens | {' | '.join(texts)} |", "|---|---|" + "---|" * len(texts)]
    for name, path in runs.items():
        cells = [f"{found[path, text]:.4g}" for text in texts.values()]
        lines.append(f"| {name} | {tokens_of(name):,} | {' | '.join(cells)} |")
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")


def begin(base: str, corpus: str, first: Path, solved: Path, steps: int) -> Commands:
    """Stages 1 and 1.9."""
    return (
        (
            *("wf-train", "training=stage1_subln", f"model.path={base}", f"out={first}"),
            *(f"data.path={corpus}", f"data.max_length={ROW_TOKENS}"),
        ),
        (
            *("wf-train", "training=stage1_9_layerwise", f"model.path={first}", f"out={solved}"),
            *(f"data.path={corpus}", *LOOP, f"training.teacher={base}"),
            *(f"training.steps={steps}", "training.calibration_rows=32", *TEACHER_KL),
        ),
    )


def perplexity(path: Path, text: str, windows: int) -> tuple[str, ...]:
    return (
        *("wf-eval", str(path), "--tasks", "ppl", "--data", text, "--json"),
        *("--context", str(ROW_TOKENS), "--limit", str(windows)),
    )


def tokens_of(name: str) -> int:
    words = name.split()
    return int(words[-2]) * ROW_TOKENS * BATCH if words[-1] == "steps" else 0


if __name__ == "__main__":
    main()
