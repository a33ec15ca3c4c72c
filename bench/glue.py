"""python bench/glue.py BASE DATA OUT [--task sst2] [--steps 300] [--seeds 2] [--ablations]

What distillation keeps of a GLUE task: the task teacher, plain BitNet-SFT and the BitDistill
student, all from the float model BASE, with the same rows in the same prompt, the same number of
optimizer steps and the same search for a learning rate, judged on training rows that are held out.
The validation set is seen once, by the chosen runs. DATA holds sst2/train.jsonl,
sst2/validation.jsonl and so on. Finished runs below OUT are kept, so the command continues where it
was stopped; tables are written to OUT/report.md, learning curves to OUT/curves.png.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from machine import Commands, Machine
from wrinklefree import plots

SEARCHED_RATES = ("3e-5", "1e-4", "3e-4", "1e-3")
HELD_OUT = 300  # training rows that choose the learning rate
EVALUATIONS = 6  # points of a learning curve

LOOP = (
    *("training.batch_size=16", "training.schedule=cosine", "training.warmup=.05"),
    *("training.beta2=.98", "training.final_lr=.1", "training.save_every=0"),
    "training.freeze=[embed]",
)
DISTILL = {
    "ce_weight": "1",
    "kd_weight": "1",
    "kd_tau": "1",
    "layerwise_weight": ".2",
    "gamma": "0",
    "cache_teacher": "false",
}
SOLVED = ("calibration_rows=1024",)
ALL_TOKENS = ("kd_positions=all",)


@dataclass(frozen=True, slots=True)
class Variant:
    """A student's recipe: settings of stage 3, and of stage 1.9 where it has a share of the steps,
    that differ from those above. It starts from the teacher's weights, or from those of BASE."""

    name: str
    distill: tuple[str, ...] = SOLVED
    layerwise: tuple[str, ...] = ()
    share: float = 0.0
    calibration: str = "least_squares"
    starts_from_base: bool = False


STUDENT = Variant("student")
ABLATIONS = (
    Variant("256 rows", ("calibration_rows=256",)),
    Variant("from BASE", starts_from_base=True),
    Variant("KL on all tokens", (*SOLVED, *ALL_TOKENS)),
    Variant("rounded", ("lambda_ramp=.4",)),
    Variant("rounded, unit gains", ("lambda_ramp=.4",), calibration="unit"),
    Variant("stage 1.9", (), layerwise=SOLVED, share=2 / 3),
    Variant("rounded, stage 1.9", (), layerwise=("lambda_ramp=.6",), share=2 / 3),
    Variant("gamma 1e3", (*SOLVED, "gamma=1e3")),
    Variant("gamma 1e4", (*SOLVED, "gamma=1e4")),
    Variant("gamma 1e5", (*SOLVED, "gamma=1e5")),
)


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its directory, and what its metrics say."""

    out: Path
    tokens: int
    seconds: float
    curve: list[tuple[int, float]]  # tokens seen, held-out accuracy of the deployed model

    @property
    def accuracy(self) -> float:
        return self.curve[-1][1]


@dataclass(frozen=True, slots=True)
class Study:
    """The runs of one task and budget."""

    base: str
    task: str
    rows: Path  # folder with train.jsonl and held_out.jsonl
    out: Path
    steps: int

    def teacher(self, lr: str, seed: int) -> tuple[Path, Commands]:
        out = self.out / f"teacher-lr{lr}-seed{seed}"
        return out, (self._train("teacher_sft", self.base, out, lr, seed, self.steps),)

    def bitnet(self, lr: str, seed: int) -> tuple[Path, Commands]:
        out = self.out / f"bitnet_sft-lr{lr}-seed{seed}"
        return out, (self._train("bitnet_sft", self.base, out, lr, seed, self.steps),)

    def student(self, variant: Variant, teacher: Path, lr: str, seed: int) -> tuple[Path, Commands]:
        words = variant.name.replace(",", "").split()
        name = f"{'-'.join(words)}-lr{lr}-seed{seed}"
        first, middle, out = (self.out / f"{name}{end}" for end in ("-s1", "-s19", ""))
        start = self.base if variant.starts_from_base else str(teacher)
        commands: list[Sequence[str]] = [
            (
                *("wf-train", "training=stage1_subln", f"model.path={start}", f"out={first}"),
                *(*self._data(), f"training.calibration={variant.calibration}"),
            )
        ]
        distill = {**DISTILL, "teacher": str(teacher)}

        def stage(
            name: str, parent: Path, out: Path, steps: int, changes: tuple[str, ...]
        ) -> Sequence[str]:
            settings = distill | dict(change.split("=") for change in changes)
            return (
                *self._train(name, str(parent), out, lr, seed, steps),
                *(f"training.{key}={value}" for key, value in settings.items()),
            )

        parent, num_middle = first, round(variant.share * self.steps)
        if num_middle:
            parent = middle
            changes = (*variant.layerwise, "schedule=constant")
            commands.append(stage("stage1_9_layerwise", first, middle, num_middle, changes))
        last = self.steps - num_middle
        commands.append(stage("stage3_distill", parent, out, last, variant.distill))
        return out, tuple(commands)

    def result(self, out: Path) -> Result:
        """Metrics of a run, with those of its parent stages in front."""
        tokens, seconds, curve = 0, 0.0, []
        for part in (Path(f"{out}-s19"), out):
            if not part.exists():
                continue
            for line in (part / "metrics.jsonl").read_text().splitlines():
                entry: dict[str, Any] = json.loads(line)
                if entry["kind"] == "train":
                    tokens += entry["tokens"]
                    seconds += entry["tokens"] / entry["tokens_per_s"]
                elif entry["kind"] == "eval":
                    accuracy = entry.get("accuracy_deployed", entry["accuracy"])
                    curve.append((tokens, accuracy))
        return Result(out, tokens, seconds, curve)

    def _train(
        self, stage: str, parent: str, out: Path, lr: str, seed: int, steps: int
    ) -> tuple[str, ...]:
        every = max(1, self.steps // EVALUATIONS)
        return (
            *("wf-train", f"training={stage}", f"model.path={parent}", f"out={out}"),
            *(*self._data(), *LOOP, f"training.lr={lr}", f"training.seed={seed}"),
            *(f"training.steps={steps}", f"training.eval_every={every}"),
        )

    def _data(self) -> tuple[str, ...]:
        return (
            *(f"data={self.task}", f"data.path={self.rows / 'train.jsonl'}"),
            *(f"data.eval_path={self.rows / 'held_out.jsonl'}", f"data.eval_rows={HELD_OUT}"),
        )


def hold_out(source: Path, target: Path) -> None:
    """Split training rows: the last ones are held out."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    target.mkdir(parents=True, exist_ok=True)
    (target / "train.jsonl").write_text("".join(lines[:-HELD_OUT]), encoding="utf-8")
    (target / "held_out.jsonl").write_text("".join(lines[-HELD_OUT:]), encoding="utf-8")


@click.command()
@click.argument("base")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--task", default="sst2", type=click.Choice(["sst2", "qnli", "mnli"]))
@click.option("--steps", default=300, help="Optimizer steps of 16 rows, for every method.")
@click.option("--seeds", default=2, help="Seeds of the chosen runs.")
@click.option("--rates", default=",".join(SEARCHED_RATES), help="Learning rates that are tried.")
@click.option("--ablations", is_flag=True, help="Also change one thing at a time in the student.")
@click.option("--jobs", default=1, help="Runs side by side, on cores of their own.")
def main(
    base: str,
    data: Path,
    out: Path,
    task: str,
    steps: int,
    seeds: int,
    rates: str,
    ablations: bool,
    jobs: int,
) -> None:
    rows = out / "rows"
    hold_out(data / task / "train.jsonl", rows)
    machine, study = Machine(jobs), Study(base, task, rows, out, steps)
    plots.check(out / "curves.png")
    searched = rates.split(",")

    plans = [plan(lr, 0) for plan in (study.teacher, study.bitnet) for lr in searched]
    machine.map(commands for _, commands in plans)
    teachers, bitnets = plans[: len(searched)], plans[len(searched) :]
    best: dict[str, str] = {}

    def choose(method: str, paths: Iterable[Path]) -> Path:
        results = [study.result(path) for path in paths]
        index = max(range(len(results)), key=lambda i: results[i].accuracy)
        best[method] = searched[index]
        return results[index].out

    teacher = choose("teacher", [path for path, _ in teachers])
    choose("bitnet_sft", [path for path, _ in bitnets])
    students = [study.student(STUDENT, teacher, lr, 0) for lr in searched]
    machine.map(commands for _, commands in students)
    choose("student", [path for path, _ in students])

    chosen = {"teacher_sft": [teacher]}
    plans = [study.bitnet(best["bitnet_sft"], seed) for seed in range(seeds)]
    chosen["BitNet-SFT"] = [path for path, _ in plans]
    plans += [study.student(STUDENT, teacher, best["student"], seed) for seed in range(seeds)]
    chosen["BitDistill"] = [path for path, _ in plans[seeds:]]
    for variant in ABLATIONS if ablations else ():
        plans.append(study.student(variant, teacher, best["student"], 0))
        chosen[variant.name] = [plans[-1][0]]
    machine.map(commands for _, commands in plans)
    judge(machine, study, chosen, data, teacher)
    searches = {"teacher_sft": teachers, "BitNet-SFT": bitnets, "BitDistill": students}
    lines = report(study, chosen, searches)
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    curves = {name: [study.result(path) for path in paths] for name, paths in chosen.items()}
    draw_curves(out / "curves.png", curves, title=f"{task}, {steps} steps of 16 rows")
    print(*lines, sep="\n")


def judge(
    machine: Machine, study: Study, chosen: dict[str, list[Path]], data: Path, teacher: Path
) -> None:
    """wf-eval of the chosen runs on the validation set; its JSON beside each run."""
    paths = [path for paths in chosen.values() for path in paths]
    missing = [path for path in paths if not scores_of(path).exists()]
    commands = [
        ("wf-eval", str(path), "--tasks", study.task, "--data", str(data), "--json")
        + (("--teacher", str(teacher), "--backend", "engine") if path != teacher else ())
        for path in missing
    ]
    outputs = machine.map((command,) for command in commands)
    for path, (output,) in zip(missing, outputs, strict=True):
        scores_of(path).write_text(output, encoding="utf-8")


def scores_of(run: Path) -> Path:
    return run.with_name(f"{run.name}.json")


def report(study: Study, chosen: dict[str, list[Path]], searches: dict[str, Any]) -> list[str]:
    """Markdown: the search, the chosen runs on the validation set, and their learning curves."""
    lines = [f"{study.task}, {study.steps} steps of 16 rows", ""]
    lines += ["| search, held-out accuracy | lr | accuracy |", "|---|---|---|"]
    for method, plans in searches.items():
        for path, _ in plans:
            result = study.result(path)
            lines.append(f"| {method} | {rate_of(path)} | {result.accuracy:.3f} |")
    header = (
        "| run | lr | accuracy on validation (95 %) | to the teacher (95 %) | tokens | minutes |"
    )
    lines += ["", header, "|---|---|---|---|---|---|"]
    for name, paths in chosen.items():
        for path in paths:
            scores = json.loads(scores_of(path).read_text())["results"][study.task]
            accuracy, delta = scores["metrics"]["acc"], scores.get("delta", {}).get("acc")
            result = study.result(path)
            cells = [
                *(name, rate_of(path), with_interval(accuracy)),
                with_interval(delta, sign="+") if delta else "-",
                *(f"{result.tokens:,}", f"{result.seconds / 60:.1f}"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| held-out accuracy after ... tokens | |", "|---|---|"]
    for name, paths in chosen.items():
        for path in paths:
            curve = study.result(path).curve
            points = ", ".join(f"{tokens / 1000:.0f}k {value:.3f}" for tokens, value in curve)
            lines.append(f"| {name} | {points} |")
    return lines


def draw_curves(path: Path, methods: dict[str, list[Result]], title: str) -> None:
    """Held-out accuracy against tokens: a colour for each method, a line for each seed."""
    colours = plots.colours(len(methods))
    with plots.picture(path) as axes:
        for colour, (name, results) in zip(colours, methods.items(), strict=True):
            for number, result in enumerate(results):
                tokens, accuracies = zip(*result.curve, strict=True)
                label = name if number == 0 else None
                axes.plot([count / 1000 for count in tokens], accuracies, "o-", color=colour)
                axes.lines[-1].set(markersize=3, label=label)
        axes.set(xlabel="thousand tokens seen", ylabel="held-out accuracy", title=title)
        axes.legend()


def rate_of(run: Path) -> str:
    return run.name.rsplit("-seed", 1)[0].rsplit("-lr", 1)[1]


def with_interval(estimate: dict[str, float], sign: str = "") -> str:
    low, high = estimate["low"], estimate["high"]
    return f"{estimate['value']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


if __name__ == "__main__":
    main()
