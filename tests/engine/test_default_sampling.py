"""How a model wants its tokens chosen, from its own files, and what holds against it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wrinklefree import LLM
from wrinklefree.cli.chat import main as wf_chat
from wrinklefree.engine import SamplingParams
from wrinklefree.engine.default_sampling import (
    from_generation_config,
    from_gguf,
    to_generation_config,
    to_gguf,
)
from wrinklefree.errors import FormatError

WISHES = {
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.01,
    "repetition_penalty": 1.05,
}


@pytest.fixture
def directory(stories_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stories_dir, tmp_path / "model"))


def with_wishes(directory: Path, **fields: Any) -> Path:
    (directory / "generation_config.json").write_text(json.dumps(fields))
    return directory


def test_both_forms_hold_the_same() -> None:
    keys = {
        "general.sampling.temp": 0.6000000238418579,  # as float32 has them
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.949999988079071,
        "general.sampling.min_p": 0.009999999776482582,
        "general.sampling.penalty_repeat": 1.0499999523162842,
    }
    assert from_gguf(keys, "model.gguf") == WISHES
    assert from_generation_config(WISHES, "generation_config.json") == WISHES
    assert to_gguf(WISHES).keys() == keys.keys()
    assert from_gguf(to_gguf(WISHES), "model.gguf") == WISHES
    assert to_generation_config(WISHES) == {"do_sample": True, **WISHES}


def test_greedy_is_temperature_0() -> None:
    found = from_generation_config({"do_sample": False, "temperature": 0.6, "top_k": 5}, "x")
    assert found == {"temperature": 0.0, "top_k": 5}
    assert to_generation_config(found) == {"do_sample": False, "top_k": 5}
    assert from_generation_config({"do_sample": True}, "x") == {}
    assert to_generation_config({}) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.5),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", 10**400),
        ("temperature", True),
        ("temperature", "0.5"),
        ("top_p", 0),
        ("top_p", 1e-50),
        ("top_p", 1.5),
        ("top_k", 5.0),
        ("top_k", 2**31),
        ("min_p", 1),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("inf")),
    ],
)
def test_impossible_values_are_told_and_not_used(
    caplog: pytest.LogCaptureFixture, field: str, value: object
) -> None:
    with caplog.at_level(logging.WARNING):
        found = from_generation_config({**WISHES, field: value}, "generation_config.json")
    assert found == {name: wish for name, wish in WISHES.items() if name != field}
    (line,) = caplog.messages
    assert line.startswith(f"generation_config.json: {field} ")
    assert "is not used; allowed are" in line
    assert len(line) < 150


def test_a_top_k_of_minus_one_is_off() -> None:
    assert from_generation_config({"top_k": -1, "top_p": None}, "x") == {"top_k": 0}


def test_the_model_is_asked_where_the_caller_says_nothing(directory: Path) -> None:
    with LLM(with_wishes(directory, do_sample=False)) as greedy:
        assert greedy.default_sampling == {"temperature": 0.0}
        wanted = greedy.generate("Once", max_tokens=12, sampling=SamplingParams(temperature=0))
        assert greedy.generate("Once", max_tokens=12).text == wanted.text
        assert "".join(greedy.stream("Once", max_tokens=12)) == wanted.text
        drawn = SamplingParams(temperature=2.0, seed=1)
        assert greedy.generate("Once", max_tokens=12, sampling=drawn).text != wanted.text


def test_a_damaged_file_is_one_line(directory: Path) -> None:
    for text in ("{", "[]", "[" * 100_000):
        (directory / "generation_config.json").write_text(text)
        with pytest.raises(FormatError, match=r"generation_config\.json"):
            LLM(directory)


def test_chat_asks_the_model_and_options_win(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[SamplingParams] = []
    monkeypatch.setattr("wrinklefree.cli.chat.Chat.run", lambda self, _: used.append(self.sampling))

    def start(*options: str) -> SamplingParams:
        assert CliRunner().invoke(wf_chat, [str(directory), *options]).exit_code == 0
        return used[-1]

    assert start() == SamplingParams(temperature=0.7, top_p=0.95)
    with_wishes(directory, temperature=0.3, top_k=7)
    assert start() == SamplingParams(temperature=0.3, top_p=0.95, top_k=7)
    assert start("--temperature", "1.5", "--top-p", "0.5") == SamplingParams(
        temperature=1.5, top_p=0.5, top_k=7
    )
