"""The same model in torch, in the engine and through HTTP: the same scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from wrinklefree.cli.eval import main
from wrinklefree.errors import UsageError, WrinklefreeError
from wrinklefree.eval.backend import Question, open_backend
from wrinklefree.eval.server_backend import ServerBackend
from wrinklefree.models import Manifest, QuantConfig, load_teacher, quantize_, save_artifact

WfServe = Callable[[Path], AbstractContextManager[str]]


@pytest.fixture(scope="module", params=["float", "ternary"])
def model(request: pytest.FixtureRequest, stories: Path, tmp_path_factory: Any) -> Path:
    if request.param == "float":
        path = Path(tmp_path_factory.mktemp("model") / "float")
        shutil.copytree(stories, path)
        # Servers obey it where nobody asks for something else; an evaluation is greedy.
        settings = {"eos_token_id": 2, "repetition_penalty": 3.0}
        (path / "generation_config.json").write_text(json.dumps(settings))
        return path
    module, tokenizer = load_teacher(stories)
    quantize_(module, QuantConfig(subln="none", lam=1.0))
    path = Path(tmp_path_factory.mktemp("model") / "ternary")
    save_artifact(module, tokenizer, path, Manifest(stage="test"))
    return path


@pytest.fixture(scope="module")
def url(model: Path, wf_serve: WfServe) -> Iterator[str]:
    with wf_serve(model) as address:
        yield address


def results(model: object, *options: object) -> dict[str, Any]:
    ran = CliRunner().invoke(main, [str(part) for part in (model, *options, "--json")])
    assert ran.exit_code == 0, ran.stderr
    return dict(json.loads(ran.stdout)["results"])


def test_three_backends_agree(model: Path, url: str, data_dir: Path, tmp_path: Path) -> None:
    text = (data_dir / "tinystories_sample" / "tiny_stories.txt").read_text()[:4000]
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": text}))
    options = ("--tasks", "rte,cola,ppl", "--data", data_dir, "--data", tmp_path / "text.jsonl")
    limits = ("--limit", 20, "--context", 200)
    engine = results(model, *options, *limits, "--backend", "engine")
    server = results(url, *options, *limits, "--batch", 3)
    assert server == engine  # to the last bit
    torch = results(model, *options, *limits)
    # Torch sums in another order, and ternary layers round what comes out to other int8 codes.
    is_ternary = model.name == "ternary"
    for name, result in torch.items():
        assert result["counts"] == engine[name]["counts"]
    for metric, estimate in torch["ppl"]["metrics"].items():
        other = engine["ppl"]["metrics"][metric]["value"]
        assert estimate["value"] == pytest.approx(other, rel=0.01 if is_ternary else 1e-4), metric
    for name in ("rte", "cola"):
        other = engine[name]["metrics"]["acc"]["value"]
        difference = abs(torch[name]["metrics"]["acc"]["value"] - other)
        assert difference <= (0.1 if is_ternary else 0.0)


def test_scores_and_answers_are_those_of_the_engine(model: Path, url: str) -> None:
    engine = open_backend(str(model), backend="engine")
    with closing(open_backend(url)) as server:
        assert (server.max_context, server.bos_id) == (engine.max_context, engine.bos_id)
        prompt = server.encode("Once upon a time", add_special=True)
        assert prompt == engine.encode("Once upon a time", add_special=True)
        questions = [Question(prompt, [[5], [6, 7], [6, 8]]), Question([1], [[403], [404]])] * 9
        assert server.score(questions) == engine.score(questions)  # bit for bit
        for stop in ((), ("e", "x")):
            answers = server.generate([prompt], max_tokens=30, stop=stop)
            assert answers == engine.generate([prompt], max_tokens=30, stop=stop)


def fake(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[Any]]) -> None:
    """Every client meets these answers (or what they return), per path one after the other."""

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers[request.url.path].pop(0)
        return found() if callable(found) else found

    real = httpx.Client
    monkeypatch.setattr(
        httpx, "Client", lambda **options: real(**options, transport=httpx.MockTransport(answer))
    )


MODELS = {"data": [{"id": "m", "max_model_len": 64}]}


def test_a_server_that_ignores_echo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = {"choices": [{"index": 0, "text": "x", "logprobs": None}]}
    paths = {
        "/v1/models": [httpx.Response(200, json=MODELS)],
        "/v1/completions": [httpx.Response(200, json=ignored)],
    }
    fake(monkeypatch, paths)
    backend = ServerBackend("http://other:1/v1")
    assert backend.max_context == 64
    with pytest.raises(WrinklefreeError, match="does not echo"):
        backend.logprobs([1, 2, 3])


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = httpx.Response(429, headers={"Retry-After": "0"})
    tokens = httpx.Response(200, json={"tokens": [7]})
    paths = {"/v1/models": [httpx.Response(200, json=MODELS)], "/tokenize": [busy, busy, tokens]}
    fake(monkeypatch, paths)
    assert ServerBackend("http://other:1").encode("a", add_special=True) == [7]


@pytest.mark.parametrize("asked", ["soon", "-5", "1e9", ""])
def test_a_strange_retry_after_is_no_error(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    busy = httpx.Response(429, headers={"Retry-After": asked})
    fake(monkeypatch, {"/v1/models": [busy, httpx.Response(200, json=MODELS)]})
    ServerBackend("http://other:1")
    assert waited == [1.0]


def raising(error: type[httpx.HTTPError], text: str) -> Callable[[], httpx.Response]:
    def answer() -> httpx.Response:
        raise error(text)

    return answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (raising(httpx.ConnectError, "Connection refused"), r"no answer \(Connection refused\)"),
        (raising(httpx.ReadTimeout, ""), r"no answer \(ReadTimeout\)"),
        (lambda: httpx.Response(404, json={"detail": "Not Found"}), "HTTP 404"),
        (lambda: httpx.Response(502, text="<html>"), "HTTP 502"),
        (lambda: httpx.Response(500, json={"error": {"message": "on fire"}}), "on fire"),
        (lambda: httpx.Response(200, text="<html>"), "no JSON"),
        (lambda: httpx.Response(200, json=[1]), "another form"),
        (lambda: httpx.Response(200, json={"tokens": None, "choices": None}), "another form"),
        (lambda: httpx.Response(200, json={"tokens": ["a"], "choices": [1]}), "another form"),
    ],
)
def test_each_failure_of_a_server_is_one_line_with_its_address(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], httpx.Response], told: str
) -> None:
    answers = {"/tokenize": [answer], "/v1/completions": [answer, answer]}
    fake(monkeypatch, {"/v1/models": [httpx.Response(200, json=MODELS)], **answers})
    backend = ServerBackend("http://other:1")
    asked = {
        "/tokenize": lambda: backend.encode("a", add_special=True),
        "/v1/completions": lambda: backend.generate([[1]], max_tokens=1),
    }
    for path, ask in asked.items():
        with pytest.raises(WrinklefreeError, match=f"^http://other:1{path}: .*{told}"):
            ask()
    with pytest.raises(WrinklefreeError, match=f"{told}|does not echo"):
        backend.logprobs([1, 2])


def test_what_a_server_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = httpx.Response(401, json={"error": {"message": "give a key"}})
    fake(monkeypatch, {"/v1/models": [refused]})
    with pytest.raises(WrinklefreeError, match="give a key"):
        ServerBackend("http://other:1")


def test_no_server_is_one_line() -> None:
    for address in ("http://127.0.0.1:9", "http://[::1", "http://127.0.0.1:99999", "http://"):
        with pytest.raises(UsageError, match="no server answers"):
            open_backend(address)
    with pytest.raises(UsageError, match="--backend torch cannot"):
        open_backend("http://127.0.0.1:9", backend="torch")
