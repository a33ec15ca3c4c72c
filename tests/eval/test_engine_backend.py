from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from wrinklefree.cli.eval import main
from wrinklefree.errors import UsageError
from wrinklefree.eval.backend import Answer, Question, open_backend
from wrinklefree.eval.outcome import Outcome
from wrinklefree.eval.perplexity import PerplexityTask


def questions(count: int) -> list[Question]:
    rng = random.Random(3)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(3, 512) for _ in range(length)]

    return [
        Question(tokens(rng.randrange(1, 40)), [tokens(1), tokens(3), tokens(2)])
        for _ in range(count)
    ]


def test_scores_do_not_depend_on_what_is_scored_together(stories: Path) -> None:
    backend = open_backend(str(stories / "stories260K-f32.gguf"))
    asked = questions(8)
    together = backend.score(asked)
    alone = [
        [backend.score([Question(q.prompt, [choice])])[0][0] for choice in q.choices]
        for q in reversed(asked)
    ]
    assert together == alone[::-1]  # bit for bit


def test_engine_and_torch_score_alike(stories: Path) -> None:
    asked = questions(8)
    torch_scores = open_backend(str(stories), backend="torch").score(asked)
    for path in (stories, stories / "stories260K-f32.gguf"):
        scores = open_backend(str(path), backend="engine").score(asked)
        for row, others in zip(scores, torch_scores, strict=True):
            for score, other in zip(row, others, strict=True):
                assert score.logprob == pytest.approx(other.logprob, abs=2e-3)
                assert score.is_greedy == other.is_greedy


def test_perplexity_equals_that_of_torch(stories: Path, data_dir: Path) -> None:
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text()[:3000]

    def run(backend: str) -> Outcome:
        opened = open_backend(str(stories), backend=backend)
        task = PerplexityTask("stories", [text], limit=3)
        return task.run(opened, context=256, batch=1, progress=lambda done, total: None)

    engine, torch = run("engine"), run("torch")
    for ours, theirs in zip(engine.metrics, torch.metrics, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-4)
    assert engine.counts == torch.counts
    assert engine.counts.tokens == 3 * 255


def test_engine_and_torch_write_alike(stories: Path) -> None:
    engine, torch = (open_backend(str(stories), backend=name) for name in ("engine", "torch"))
    prompts = [engine.encode("Once upon a time", add_special=True), [1]]
    answers = engine.generate(prompts, max_tokens=60)
    others = torch.generate(prompts, max_tokens=60)
    assert answers == others  # a first word keeps its space, which follows the prompt
    assert answers[1].text.startswith(" ")
    assert answers[0].text.startswith(", there was a little girl named Lily.")
    assert not answers[0].is_finished
    stop = ["Lily", "xyz"]
    cut = [backend.generate(prompts[:1], max_tokens=60, stop=stop) for backend in (engine, torch)]
    assert cut[0] == cut[1] == [Answer(", there was a little girl named ", True)]


def test_a_stop_string_is_looked_for_in_the_answer_alone(stories: Path) -> None:
    engine, torch = (open_backend(str(stories), backend=name) for name in ("engine", "torch"))
    prompt = [engine.encode("Once upon a time", add_special=True)]
    whole = engine.generate(prompt, max_tokens=40)[0].text
    assert whole.startswith(", there was a little girl named Lily. She loved to")
    expected = {
        ("time,",): Answer(whole, False),  # half of it is the prompt
        ("e was", "re w"): Answer(", the", True),  # the one that is complete first ends it
        ("girl", "a little girl"): Answer(", there was ", True),  # the longer of the two
        ("", "She"): Answer(", there was a little girl named Lily. ", True),  # "" is none
    }
    for stop, answer in expected.items():
        for backend in (engine, torch):
            assert backend.generate(prompt, max_tokens=40, stop=stop) == [answer], stop


def test_an_end_token_ends_an_answer(stories: Path, tmp_path: Path) -> None:
    shutil.copytree(stories, tmp_path / "m")
    prompt = open_backend(str(stories)).encode("Once upon a time", add_special=True)
    ids = open_backend(str(stories)).encode(", there was", add_special=False)
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": ids[-1]}))
    for name in ("engine", "torch"):
        backend = open_backend(str(tmp_path / "m"), backend=name)
        (answer,) = backend.generate([prompt], max_tokens=60)
        assert answer.is_finished
        assert len(answer.text) < 20


def test_a_gguf_file_on_the_command_line(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time, there was a little girl named Lily.")
    file = str(stories / "stories260K-f32.gguf")
    result = CliRunner().invoke(
        main, [file, "--tasks", "ppl", "--data", str(tmp_path / "text.txt"), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["backend"] == "engine"
    result = report["results"]["ppl"]
    assert result["metrics"]["perplexity"]["value"] < 4
    assert result["counts"]["with_bos"] == result["counts"]["examples"] == 1


def test_torch_cannot_run_a_file(stories: Path) -> None:
    with pytest.raises(UsageError, match="torch runs model directories"):
        open_backend(str(stories / "stories260K-f32.gguf"), backend="torch")
