"""`python -m demo`: distil, convert, evaluate, serve and compare."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from demo import packages, recipe, serving, speed, table, task
from demo.steps import Chain, Step
from wrinklefree.cli.command import Command, verbose_option

EXAMPLES = """
python -m demo
python -m demo --tiny --work /tmp/demo
python -m demo --dry-run
"""
STUDENT = "student.gguf"


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--tiny", is_flag=True, help="The tiny stories260K model instead of SmolLM2-135M.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder of all results.")
@click.option("--dry-run", is_flag=True, help="Print sizes and commands and stop.")
@verbose_option
def main(tiny: bool, work: Path | None, dry_run: bool) -> None:
    """Run the whole chain on one model; started again, it continues where it stopped."""
    settings = recipe.TINY if tiny else recipe.SMOLLM2
    work = (work or Path(".demo", "tiny" if tiny else "smollm2")).resolve()
    console = Console(highlight=False)
    download_mb = 0 if tiny else packages.TEACHER.download_mb + packages.SUMMARIES.download_mb
    console.print(
        f"{settings.name}: downloads {download_mb} MB, needs {settings.disk_mb:,} MB of disk in "
        f"{work}, takes about {settings.minutes} minutes",
        soft_wrap=True,
    )
    if not tiny:
        for package in (packages.TEACHER, packages.SUMMARIES):
            console.print(f"  {package.requirement}: {package.what}, {package.download_mb} MB")

    if tiny:
        gguf, teacher = None, task.test_data() / "stories260k_hf"
    else:
        gguf = Path("TEACHER.gguf") if dry_run else packages.teacher_gguf()
        teacher = Path("teacher")
    first = [] if gguf is None else [convert("teacher to a float directory", gguf, "teacher", "hf")]
    steps = [*train_steps(settings, str(teacher)), *eval_steps(settings)]
    if dry_run:
        for step in (*first, *steps):
            console.print(shlex.join(step.command), markup=False, soft_wrap=True)
        return

    work.mkdir(parents=True, exist_ok=True)
    chain = Chain(work, console, num_steps=len(first) + len(steps))
    chain.run(first)
    data = task.stories() if tiny else task.topics(work / "download")
    sizes = task.write(data, settings, work / teacher, work / "task")
    console.print(f"task: {len(data.choices)} answers, {sizes['train']} train, {sizes['val']} val")
    chain.run(steps)

    with (work / "task" / "val.jsonl").open(encoding="utf-8") as lines:
        question = json.loads(next(lines))
    answer = serving.ask(work / STUDENT, question["prompt"], tokens=settings.answer_tokens)
    expected = question["choices"][question["label"]]
    console.print(f"\nasked over HTTP: {question['prompt']}", markup=False)
    console.print(f"the student says {answer!r}, right is {expected!r}\n", markup=False)

    rows = result_rows(work, measured_speeds(work, gguf), gguf)
    console.print(table.result_table(rows, title=f"{settings.name}, {sizes['val']} questions"))
    (work / "table.md").write_text(table.markdown(rows) + "\n", encoding="utf-8")
    console.print(f"\ntable: {work / 'table.md'}\n", soft_wrap=True)
    console.print("Talk to the student; the chat page is http://127.0.0.1:8080/")
    console.print(f"    wf-serve {shlex.quote(str(work / STUDENT))}", soft_wrap=True)


def convert(title: str, source: Path | str, target: str, to: str, *options: str) -> Step:
    """A wf-convert command."""
    command = ("wf-convert", str(source), target, "--to", to, *options)
    return Step(title, command, made=Path(target) if to == "hf" else None)


def train_steps(settings: recipe.Recipe, teacher: str) -> list[Step]:
    """The teacher, the stages of the student, the plain baseline, and the conversion."""
    # wf-eval measures at the end: rows held out in every stage would cost minutes.
    data = ("data=local", "data.eval_rows=0")
    choices = (*data, "data.path=task/train.jsonl", "data.format=choice")
    text = (*data, "data.path=task/corpus.jsonl", f"data.max_length={settings.row_tokens}")

    def train(
        title: str, stage: str, source: str, out: str, *more: str, loop: tuple[str, ...]
    ) -> Step:
        values = (f"training.{value}" for value in loop)
        command = ("wf-train", f"training={stage}", f"model.path={source}", *more, *values)
        made = Path("runs", out)
        return Step(title, (*command, f"out={made}"), made=made)

    sft_teacher = "training.teacher=runs/sft"
    steps = [
        train(
            "teacher learns the task", "teacher_sft", teacher, "sft", *choices, loop=settings.sft
        ),
        train(
            *("norms and quantizers go in", "stage1_subln", "runs/sft", "s1", *text),
            loop=settings.calibration,
        ),
    ]
    if settings.layerwise:
        layerwise = ("layers become ternary", "stage1_9_layerwise", str(steps[-1].made), "s19")
        steps.append(train(*layerwise, *choices, sft_teacher, loop=settings.layerwise))
    if settings.pretrain:
        pretrain = ("text pretraining", "stage2_pretrain", str(steps[-1].made), "s2")
        steps.append(train(*pretrain, *text, loop=settings.pretrain))
    return [
        *steps,
        train(
            *("distillation", "stage3_distill", str(steps[-1].made), "student"),
            *(*choices, sft_teacher),
            loop=settings.distill,
        ),
        # From the same float model and for as many steps as the student: else a straw man.
        train(
            *("plain BitNet-SFT", "bitnet_sft", "runs/sft", "bitnet", *choices),
            loop=settings.bitnet,
        ),
        convert("student to GGUF", "runs/student", STUDENT, "gguf", "--type", "auto"),
    ]


def eval_steps(settings: recipe.Recipe) -> list[Step]:
    """Accuracy and perplexity of teacher, baseline and student."""
    task_data = ("--tasks", "task/val.jsonl", "--train", "task/train.jsonl", "--json")
    text_data = (
        *("--tasks", "ppl", "--data", "task/val_text.jsonl", "--json"),
        *("--limit", str(settings.perplexity_windows), "--context", str(settings.row_tokens)),
    )
    models = {"teacher": "runs/sft", "bitnet": "runs/bitnet", "student": STUDENT}
    return [
        Step(f"{kind} of {name}", ("wf-eval", model, *data), Path(f"{name}-{kind}.json"))
        for name, model in models.items()
        for kind, data in (("accuracy", task_data), ("perplexity", text_data))
    ]


def result_rows(work: Path, speeds: dict[str, float], gguf: Path | None) -> list[table.Row]:
    """What was measured: baselines without a model, teacher, plain BitNet-SFT, student."""

    def result(name: str, kind: str) -> dict[str, Any]:
        report = json.loads((work / f"{name}-{kind}.json").read_text("utf-8"))
        (only,) = report["results"].values()  # one task each
        return dict(only)

    def accuracy(measured: dict[str, float]) -> tuple[float, float, float]:
        return measured["value"], measured["low"], measured["high"]

    def model(title: str, name: str, num_bytes: int | None = None) -> table.Row:
        return table.Row(
            title,
            accuracy(result(name, "accuracy")["metrics"]["acc"]),
            result(name, "perplexity")["metrics"]["perplexity"]["value"],
            num_bytes,
            speeds.get(name),
        )

    baselines = result("student", "accuracy")["baselines"]
    rows = [
        table.Row("majority", accuracy(baselines["majority"]["acc"])),
        table.Row("bag of words", accuracy(baselines["bag_of_words"]["acc"])),
        model("teacher (float32)", "teacher", (work / "runs/sft/model.safetensors").stat().st_size),
        model("plain BitNet-SFT", "bitnet"),
        model("student (ternary)", "student", (work / STUDENT).stat().st_size),
    ]
    if gguf is not None:
        size = gguf.stat().st_size
        original = table.Row("its file in llama.cpp", None, None, size, speeds.get("llama.cpp"))
        rows.insert(3, original)
    return rows


def measured_speeds(work: Path, gguf: Path | None) -> dict[str, float]:
    """Tokens/s of the fine-tuned teacher, the student, and the original file in llama.cpp."""
    threads = len(os.sched_getaffinity(0))
    runners = [
        speed.torch_runner("teacher", work / "runs" / "sft", "bfloat16"),
        speed.engine_runner("student", work / STUDENT, threads),
    ]
    if gguf is not None:
        runners.append(speed.llama_cpp_runner("llama.cpp", gguf, threads))
    return speed.measure(runners)


if __name__ == "__main__":
    main(prog_name="python -m demo")
