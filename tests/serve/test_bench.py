"""wf bench serve measures what a server does, and sees when its texts change under load."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from tests.serve.conftest import ScriptedModel
from wrinklefree.cli.main import main

SMALL = ("--requests", "6", "--rounds", "2", "--prompt", "40", "--tokens", "8")


def bench(*arguments: str) -> list[dict[str, Any]]:
    ran = CliRunner().invoke(main, ["bench", "serve", *arguments, *SMALL, "--json"])
    assert ran.exit_code == 0, ran.stderr
    rows: list[dict[str, Any]] = json.loads(ran.stdout)["rows"]
    return rows


def test_figures_follow_the_server(serve: Any) -> None:
    step = 0.01
    server = serve(ScriptedModel([b"a", b"b", b"c", b"d"], delay_s=step), parallel=3)
    rows = bench(server.url, f"{server.url}/v1/", "--concurrency", "1,3")
    assert [(row["url"], row["concurrency"]) for row in rows] == [
        (server.url, 1),
        (server.url, 3),
    ]
    for row in rows:
        assert row["failures"] == 0
        assert row["texts_as_alone"] == 1.0
        assert row["between_tokens_ms_p50"] == pytest.approx(1000 * step, rel=0.9)
        assert row["first_token_ms_p50"] >= 1000 * step
    # Five tokens with the end token, one step each: at most 1 / step tokens/s for each user.
    assert rows[0]["tokens_per_s"] <= 1 / step
    assert rows[0]["tokens_per_s"] < rows[1]["tokens_per_s"] <= 3 / step


def test_texts_that_change_under_load_are_seen(serve: Any) -> None:
    class Moody(ScriptedModel):
        """Answers otherwise when it is not alone."""

        def _sample(self, slot: Any) -> Any:
            token = super()._sample(slot)
            if self.batch_sizes[-1] > 1 and token.id == self.first:
                return type(token)(self.other, token.logprob, token.top)
            return token

    model = Moody([b"a", b"b"], delay_s=0.005)
    model.first, model.other = (model.tokenizer.words.index(w) + 259 for w in (b"a", b"b"))
    server = serve(model, parallel=4)
    alone, together = bench(server.url, "--concurrency", "1,4")
    assert alone["texts_as_alone"] == 1.0
    assert together["texts_as_alone"] < 1.0


def test_refused_requests_are_failures(serve: Any) -> None:
    server = serve(ScriptedModel([b"a"], delay_s=0.02), parallel=1, max_queue=0)
    alone, together = bench(server.url, "--concurrency", "1,6")
    assert alone["failures"] == 0
    assert together["failures"] > 0
    assert together["texts_as_alone"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("http://127.0.0.1:1",), 1, "no model at http://127.0.0.1:1/v1/models"),
        (("http://127.0.0.1:1", "--concurrency", "0"), 2, "--concurrency"),
        (("http://127.0.0.1:1", "--concurrency", "two"), 2, "'two'"),
    ],
)
def test_errors(arguments: tuple[str, ...], code: int, problem: str) -> None:
    ran = CliRunner().invoke(main, ["bench", "serve", *arguments])
    assert (ran.exit_code, ran.stderr.count("\n")) == (code, 1)
    assert problem in ran.stderr


def test_the_key_is_sent(serve: Any) -> None:
    server = serve(ScriptedModel([b"a"]), api_keys=("sesame",))
    assert bench(server.url, "--concurrency", "1", "--api-key", "sesame")[0]["failures"] == 0
    ran = CliRunner().invoke(main, ["bench", "serve", server.url, "--api-key", "guess"])
    assert ran.exit_code == 1
