"""wf-eval as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from wrinklefree.cli.eval import main
from wrinklefree.models import Manifest, QuantConfig, load_teacher, quantize_, save_artifact


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def write_task(path: Path) -> Path:
    # No leading spaces: this SentencePiece tokenizer puts one in front of every text.
    lines = [
        {"prompt": "Once upon a", "choices": ["time", "said"], "label": 0},
        {"prompt": "She loved to", "choices": ["was", "play"], "label": 1},
        {"prompt": "One day, a little", "choices": ["girl", "the"], "label": 0},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_of_choices(stories: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "val.jsonl")
    code, out, _ = run(stories, "--tasks", task, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["backend"] == "torch"
    (result,) = report["results"].values()
    assert result["metrics"]["acc"]["value"] == 1
    assert result["metrics"]["acc"]["low"] == pytest.approx(0.4385, abs=1e-3)
    assert result["counts"]["examples"] == result["counts"]["with_bos"] == 3
    assert result["baselines"]["majority"]["acc"]["value"] == pytest.approx(1 / 3)


def test_glue_beside_a_teacher(stories: Path, data_dir: Path) -> None:
    options = ("--tasks", "cola,mrpc", "--data", data_dir, "--limit", "40", "--context", "64")
    code, out, err = run(stories, *options, "--teacher", stories, "--json")
    assert code == 0, err
    results = json.loads(out)["results"]
    assert {name: list(result["metrics"]) for name, result in results.items()} == {
        "cola": ["mcc", "acc"],
        "mrpc": ["acc", "f1"],
    }
    for result in results.values():
        assert result["teacher"] == result["metrics"]
        assert all(
            delta["value"] == delta["low"] == delta["high"] == 0
            for delta in result["delta"].values()
        )
        assert result["protocol"]["prompt"].count("{") > 0
    assert results["mrpc"]["counts"]["truncated"] > 0  # pairs of sentences are longer than 64
    code, table, _ = run(stories, *options, "--teacher", stories)
    assert "|Tasks|Version|Filter" in table.replace(" ", "")
    assert "inputs truncated" in table


def test_the_batch_changes_no_score(stories: Path, data_dir: Path) -> None:
    options = ("--tasks", "rte", "--data", data_dir, "--limit", "12", "--json")
    for model in (stories, stories / "stories260K-f32.gguf"):
        reports = [run(model, *options, "--batch", batch)[1] for batch in (1, 5, 8)]
        assert reports[0] == reports[1] == reports[2]


def test_scores_go_into_the_model_card(stories: Path, tmp_path: Path) -> None:
    model, tokenizer = load_teacher(stories)
    quantize_(model, QuantConfig(subln="none"))
    student = tmp_path / "student"
    save_artifact(model, tokenizer, student, Manifest(stage="test"))
    task = write_task(tmp_path / "val.jsonl")
    empty = (student / "README.md").read_text()
    assert "Not measured yet" in empty
    cards = []
    for limit in (3, 2):
        code, out, _ = run(student, "--tasks", task, "--limit", limit, "--card")
        assert code == 0
        cards.append((student / "README.md").read_text())
        table = [line for line in out.splitlines() if line.startswith("|")]
        assert len(table) == 4
        assert "\n".join(table) in cards[-1]
    assert "Not measured yet" not in cards[0]
    assert cards[0].count("|Tasks") == cards[1].count("|Tasks") == 1  # replaced, not added
    assert cards[1].partition("<!-- end")[2] == empty.partition("<!-- end")[2]
    assert not list(student.glob("*.partial"))


TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside. " * 30


def test_a_teacher_with_other_tokens_is_compared_by_bits_per_byte(
    stories: Path, byte_level_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    options = ("--tasks", "ppl", "--data", tmp_path / "text.txt", "--context", "64")
    code, out, err = run(stories, *options, "--teacher", byte_level_model, "--json")
    assert code == 0, err
    result = json.loads(out)["results"]["ppl"]
    (name, delta), *none = result["delta"].items()
    assert (name, none) == ("bits_per_byte", [])
    expected = result["metrics"][name]["value"] - result["teacher"][name]["value"]
    assert delta["value"] == pytest.approx(expected)
    assert delta["low"] < delta["value"] < delta["high"] < 0  # beside a random model
    assert delta["interval"] == "unpaired bootstrap"
    _, table, _ = run(stories, *options, "--teacher", byte_level_model)
    assert table.count("N/A") == 4
    assert "cuts this text otherwise; only bits_per_byte compares" in table


def test_model_and_teacher_get_the_same_windows(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    shutil.copytree(stories, tmp_path / "short")
    config = json.loads((stories / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(
        json.dumps({**config, "max_position_embeddings": 96})
    )
    options = ("--tasks", "ppl", "--data", tmp_path / "text.txt")
    for model, teacher in ((stories, tmp_path / "short"), (tmp_path / "short", stories)):
        code, out, err = run(model, *options, "--teacher", teacher, "--json")
        assert code == 0, err
        result = json.loads(out)["results"]["ppl"]
        assert result["counts"] == result["teacher_counts"]
        assert result["counts"]["context"] == 96
        assert {delta["value"] for delta in result["delta"].values()} == {0}
    code, out, err = run(stories, *options, "--context", 128, "--teacher", tmp_path / "short")
    assert (code, out) == (2, "")
    assert "more than the 96 tokens of the teacher" in err


def test_finished_tasks_survive_an_error(stories: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "val.jsonl")
    (tmp_path / "long.jsonl").write_text(
        json.dumps({"prompt": "Once", "choices": ["upon " * 40, "x"], "label": 0})
    )
    options = ("--tasks", f"{task},{tmp_path / 'long.jsonl'}", "--context", "16")
    code, out, err = run(stories, *options)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'long.jsonl'} of {stories}: record 1: a choice")
    assert "|1.0000|" in out
    assert "long.jsonl" not in out
    code, out, _ = run(stories, *options, "--json")
    assert (code, list(json.loads(out)["results"])) == (2, [str(task)])


def test_missing_packages_are_told_before_a_summary_is_written(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "wrinklefree.eval.text_overlap.find_spec", lambda name: None if name == "sacrebleu" else 1
    )
    code, out, err = run("no-model", "--tasks", "cnn_dailymail", "--data", data_dir)
    assert (code, out) == (2, "")
    assert err == "error: cnn_dailymail needs sacrebleu; pip install 'wrinklefree[eval]'\n"


def test_a_card_without_a_place_for_scores_is_refused_first(stories: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "val.jsonl")
    code, _, err = run(stories, "--tasks", task, "--card")
    assert (code, "README.md does not exist" in err) == (2, True)
    (tmp_path / "README.md").write_text("# mine")
    code, _, err = run(tmp_path, "--tasks", task, "--card")
    assert (code, "for scores to go between" in err) == (1, True)
    assert (tmp_path / "README.md").read_text() == "# mine"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{missing}", "--tasks", "{task}"], "no such directory"),
        (["{model}", "--tasks", "{task}", "--teacher", "{missing}"], "no such directory"),
        (["{model}", "--tasks", "ppl", "--data", "{missing}"], "does not exist"),
        (["{model}", "--tasks", " ,"], "names no task"),
        (["{model}", "--tasks", "sst2", "--data", "{text}", "--train", "{task}"], "--train"),
        (["{model}", "--tasks", "pp"], "did you mean 'ppl'"),
        (["{model}", "--tasks", "hellaswag"], "`wf lm-eval` runs the tasks of lm-eval"),
        (["{model}", "--tasks", "{text}"], "--tasks ppl --data"),
        (["{model}", "--tasks", "ppl,sst2", "--data", "{text}"], "sst2/validation.jsonl"),
        (["{model}", "--tasks", "{task}", "--revision", "v2"], "no model of the hub"),
        (["{model}", "--tasks", "ppl"], "--data FILE"),
        (["{model}", "--tasks", "ppl", "--data", "{text}", "--context", "4096"], "512"),
        (["{model}", "--tasks", "{task}", "--data", "{task}"], "belongs to"),
        (["{model}", "--task", "{task}"], "--tasks"),
        (["http://127.0.0.1:9", "--tasks", "{task}", "--card"], "http://127.0.0.1:9 is none"),
    ],
)
def test_bad_usage_is_one_line_with_exit_code_2(
    stories: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    task = write_task(tmp_path / "val.jsonl")
    (tmp_path / "some.txt").write_text("Once upon a time")
    names = {
        "model": stories,
        "task": task,
        "text": tmp_path / "some.txt",
        "missing": tmp_path / "missing",
    }
    code, out, err = run(*(argument.format(**names) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert complaint in err
    assert err.count("\n") == 1
