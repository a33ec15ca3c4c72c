"""lm-eval judges our models, with its own code and its own metrics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from wrinklefree.cli.eval import main as wf_eval
from wrinklefree.cli.main import main as wf
from wrinklefree.data.glue import GLUE, glue_example

ROWS = {
    "sst2": {"sentence": " a {fine} film \n", "label": 1},
    "mnli": {"premise": "It rains. ", "hypothesis": "It is wet.", "label": 1},
}


def write_tasks(folder: Path, data: Path) -> list[str]:
    ran = CliRunner().invoke(wf, ["lm-eval-tasks", str(folder), "--data", str(data)])
    assert ran.exit_code == 0, ran.stderr
    return ran.stdout.splitlines()


def test_task_files_say_what_training_says(tmp_path: Path) -> None:
    import jinja2

    for name, split in (("sst2", "validation"), ("mnli", "validation_mismatched")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{split}.jsonl").write_text(json.dumps(ROWS[name]) + "\n")
    lines = write_tasks(tmp_path / "tasks", tmp_path)
    assert lines[:-1] == ["wrinklefree_sst2", "wrinklefree_mnli_mismatch"]
    for name, key in (("sst2", "sst2"), ("mnli_mismatch", "mnli")):
        task = yaml.safe_load((tmp_path / "tasks" / f"wrinklefree_{name}.yaml").read_text())
        prompt, choices, label = glue_example(GLUE[key], ROWS[key], "here")
        assert jinja2.Template(task["doc_to_text"]).render(**ROWS[key]) == prompt
        # Without these two lm-eval warns of each metric.
        assert set(task["metric_list"][0]) == {"metric", "aggregation", "higher_is_better"}
        assert (task["doc_to_choice"], ROWS[key][task["doc_to_target"]]) == (list(choices), label)


def test_a_folder_without_tasks_is_an_error(tmp_path: Path) -> None:
    arguments = ["lm-eval-tasks", str(tmp_path / "out"), "--data", str(tmp_path)]
    ran = CliRunner().invoke(wf, arguments)
    assert (ran.exit_code, ran.stderr.startswith("error: no GLUE task")) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="pip install 'wrinklefree[lm-eval]'")


def judged_by_lm_eval(
    lm_eval: Any, tasks: Path, names: list[str], model: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Results by task name; metrics are called "acc,none" and so on."""
    from lm_eval.tasks import TaskManager

    import wrinklefree.eval.lm_eval_model  # noqa: F401 (registers the model)

    found = lm_eval.simple_evaluate(
        model,
        model_args=arguments,
        tasks=[f"wrinklefree_{name}" for name in names],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        limit=60,
        bootstrap_iters=0,
    )["results"]
    return {name: found[f"wrinklefree_{name}"] for name in names}


def judged_by_us(model: Path, data: Path, names: list[str], *options: str) -> dict[str, Any]:
    command = [str(model), "--tasks", ",".join(names), "--data", str(data), "--limit", "60"]
    ran = CliRunner().invoke(wf_eval, [*command, *options, "--json"])
    assert ran.exit_code == 0, ran.stderr
    return dict(json.loads(ran.stdout)["results"])


@pytest.mark.parametrize("backend", ["torch", "engine"])
def test_lm_eval_counts_what_wf_eval_counts(
    lm_eval: Any, stories: Path, data_dir: Path, tmp_path: Path, backend: str
) -> None:
    names = ["sst2", "mrpc", "cola"]
    write_tasks(tmp_path, data_dir)
    arguments = {"model": str(stories), "backend": backend}
    found = judged_by_lm_eval(lm_eval, tmp_path, names, "wrinklefree", arguments)
    for name, result in judged_by_us(stories, data_dir, names, "--backend", backend).items():
        for metric, estimate in result["metrics"].items():
            assert found[name][f"{metric},none"] == pytest.approx(estimate["value"]), metric


def test_the_command_line(
    lm_eval: Any, stories: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [])  # lm-eval reads it
    write_tasks(tmp_path, data_dir)
    model = f"model={stories / 'stories260K-f32.gguf'}"
    command = ["run", "--model", "wrinklefree", "--model_args", model, "--limit", "9"]
    tasks = ["--include_path", str(tmp_path), "--tasks", "wrinklefree_rte"]
    written = ["--output_path", str(tmp_path / "results")]
    ran = CliRunner().invoke(wf, ["lm-eval", *command, *tasks, *written])
    assert ran.exit_code == 0, ran.output
    right = judged_by_us(stories, data_dir, ["rte"], "--limit", "9")["rte"]["metrics"]["acc"]
    assert f"|acc   |↑  |{right['value']:.4f}|" in ran.stdout
    (results,) = (tmp_path / "results").rglob("results*.json")
    assert json.loads(results.read_text())["config"]["num_truncated"] == 0


def test_lm_evals_own_client_through_our_server(
    lm_eval: Any, byte_level_model: Path, data_dir: Path, tmp_path: Path, wf_serve: Any
) -> None:
    write_tasks(tmp_path / "tasks", data_dir)
    with wf_serve(byte_level_model) as url:
        arguments = {
            "model": byte_level_model.name,
            "base_url": f"{url}/v1/completions",
            "tokenizer": str(byte_level_model),
            "batch_size": 8,
        }
        found = judged_by_lm_eval(
            lm_eval, tmp_path / "tasks", ["sst2"], "local-completions", arguments
        )
    ours = judged_by_us(byte_level_model, data_dir, ["sst2"], "--backend", "engine")
    assert found["sst2"]["acc,none"] == pytest.approx(ours["sst2"]["metrics"]["acc"]["value"])
    assert 0.2 < found["sst2"]["acc,none"] < 0.8  # not one answer for all


def test_texts_and_answers(lm_eval: Any, stories: Path, caplog: pytest.LogCaptureFixture) -> None:
    from lm_eval.api.instance import Instance

    from wrinklefree.errors import UsageError
    from wrinklefree.eval.backend import open_backend
    from wrinklefree.eval.lm_eval_model import WrinklefreeLM

    model = WrinklefreeLM(str(stories), backend="engine")
    engine = open_backend(str(stories), backend="engine")

    def ask(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
        return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]

    pairs = [("Once upon a", "time"), ("Once upon a", "said"), ("", "Once upon a time")]
    (time, is_greedy), (said, _), _ = model.loglikelihood(ask("loglikelihood", *pairs))
    assert time > said
    assert is_greedy

    text = "Once upon a time, there was a little girl named Lily. " * 60
    (whole,) = model.loglikelihood_rolling(ask("loglikelihood_rolling", (text,)))
    ids = engine.encode(text, add_special=False)
    assert len(ids) > engine.max_context
    assert whole < float(engine.logprobs([1, *ids[:500]]).sum()) < 0

    options = {"until": ["."], "max_gen_toks": 40, "do_sample": False}
    answers = model.generate_until(ask("generate_until", ("Once upon a time", options)))
    assert answers == [", there was a little girl named Lily"]
    sampled = ask("generate_until", ("Once", {"do_sample": True, "temperature": 0.7}))
    with pytest.raises(UsageError, match="greedily"):
        model.generate_until(sampled)
    assert model.get_model_info()["num_truncated"] == 0
    caplog.clear()
    model.loglikelihood(ask("loglikelihood", (text, "time"), (text, "said"), ("Once", "upon")))
    model.generate_until(ask("generate_until", (text, options)))
    assert caplog.text.count("lost its front") == 1
    assert model.get_model_info() == {
        "model_backend": "engine",
        "model_context": 512,
        "num_truncated": 3,
    }


def test_wrong_arguments_are_one_line(lm_eval: Any, stories: Path) -> None:
    from wrinklefree.errors import UsageError
    from wrinklefree.eval.lm_eval_model import WrinklefreeLM

    wrong: list[tuple[dict[str, str], str]] = [
        ({"pretrained": "gpt2"}, "pretrained unknown; give model="),
        ({"model": str(stories), "dtype": "bfloat16"}, "dtype unknown"),
        ({}, "no model; give model="),
        ({"model": str(stories), "backend": "gpu"}, "not one of auto, torch, engine"),
    ]
    for arguments, told in wrong:
        with pytest.raises(UsageError, match=told):
            WrinklefreeLM(**arguments)
    with pytest.raises(UsageError, match="leave out --apply_chat_template"):
        WrinklefreeLM(str(stories), backend="engine").apply_chat_template([])


@pytest.mark.parametrize("backend", ["torch", "engine"])
def test_without_a_begin_token_texts_are_scored_after_the_end_token(
    lm_eval: Any, byte_level_model: Path, tmp_path: Path, backend: str
) -> None:
    """Qwen3's tokenizers have an end token alone."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from wrinklefree.eval.lm_eval_model import WrinklefreeLM

    path = tmp_path / "model"
    shutil.copytree(byte_level_model, path)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    del settings["bos_token"]
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = WrinklefreeLM(str(path), backend=backend)
    theirs = HFLM(str(path), device="cpu", dtype="float32", batch_size=1)
    assert theirs.prefix_token_id == 2
    text = "Once upon a time, there was a little girl named Lily."
    whole = [Instance("loglikelihood_rolling", {}, (text,), 0)]
    (expected,) = theirs.loglikelihood_rolling(whole, disable_tqdm=True)
    assert ours.loglikelihood_rolling(whole, disable_tqdm=True) == [pytest.approx(expected, 1e-4)]
    after_nothing = [Instance("loglikelihood", {}, ("", "Once upon a"), 0)]
    (expected, is_greedy) = theirs.loglikelihood(after_nothing, disable_tqdm=True)[0]
    found = ours.loglikelihood(after_nothing, disable_tqdm=True)
    assert found == [(pytest.approx(expected, 1e-4), is_greedy)]


def test_nan_is_an_error_and_no_score(
    lm_eval: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.instance import Instance

    from wrinklefree.engine.results import Score
    from wrinklefree.errors import FormatError
    from wrinklefree.eval import lm_eval_model

    monkeypatch.setattr(scripted, "score", lambda *_: [[Score(float("nan"), 1, False)]])
    monkeypatch.setattr(lm_eval_model, "open_backend", lambda *_, **__: scripted())
    model = lm_eval_model.WrinklefreeLM("broken")
    with pytest.raises(FormatError, match="NaN"):
        model.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)])


def test_a_server_that_tells_no_begin_token_cannot_score_whole_texts(
    lm_eval: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.instance import Instance

    from wrinklefree.errors import UsageError
    from wrinklefree.eval import lm_eval_model

    monkeypatch.setattr(scripted, "bos_id", None)
    monkeypatch.setattr(lm_eval_model, "open_backend", lambda *_, **__: scripted())
    model = lm_eval_model.WrinklefreeLM("http://some:1")
    with pytest.raises(UsageError, match="give model=DIRECTORY"):
        model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("abc",), 0)])
