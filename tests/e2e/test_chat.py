"""wf-chat, typed at a terminal and fed by a pipe."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import random
import re
import select
import shutil
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from wrinklefree import LLM
from wrinklefree.cli.chat import printable
from wrinklefree.cli.word_wrap import WordWrap
from wrinklefree.engine import SamplingParams

COMMAND = Path(sys.executable).with_name("wf-chat")
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
SECONDS = 60


@pytest.fixture(scope="module")
def model(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(data_dir / "stories260k_hf", path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


class Terminal:
    """A program at a terminal, with what it has shown."""

    def __init__(self, *arguments: object, state: Path) -> None:
        self._main, side = pty.openpty()
        self.process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(side)
        self.shown = ""

    def type(self, text: str) -> None:
        """Keys at the prompt: before it, Ctrl-D would mean nothing."""
        self.wait_for("> ")
        self.press(text)

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """Shows until `pattern` is there; returns that and what came before, and forgets it."""
        end = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < end, self.shown
            if select.select([self._main], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._main, 65536).decode("utf-8", "replace")
                except OSError:  # the program has ended
                    break
        assert found is not None, self.shown
        seen, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(model: Path, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(model, "--temperature", 0, "--max-tokens", 20, state=tmp_path / "state")
    yield opened
    opened.close()


def test_a_conversation(terminal: Terminal, model: Path, tmp_path: Path) -> None:
    terminal.wait_for(r"bits per weight.*/help lists commands")
    terminal.type("Once upon a time\n")
    terminal.wait_for(r"20 tokens · \d+\.\d tokens/s · first after \d")
    terminal.type("/retry\n")
    terminal.wait_for(r"of\s+them\s+kept")
    terminal.type("/rety\n")
    terminal.wait_for(r"no command /rety; did you mean 'retry'\?")
    terminal.type("/set temperature hot\n")
    terminal.wait_for("temperature needs a number")
    terminal.type("/set top_p 7\n")
    terminal.wait_for("top_p")
    terminal.type("/set top_k 99999999999999999999\n")
    terminal.wait_for("error: top_k must be")
    terminal.type("/set seed -1\n")
    terminal.type("/retry\n")
    terminal.wait_for(r"of\s+them\s+kept")
    saved = tmp_path / "chat.jsonl"
    terminal.type(f"/save {saved}\n")
    terminal.wait_for("saved in")
    terminal.type("\x04")
    assert terminal.process.wait(SECONDS) == 0
    messages = json.loads(saved.read_text())["messages"]
    with LLM(model) as llm:
        wanted = llm.chat(messages[:1], max_tokens=20, sampling=SamplingParams(temperature=0)).text
    assert messages == [
        {"role": "user", "content": "Once upon a time"},
        {"role": "assistant", "content": wanted},
    ]
    history = (tmp_path / "state" / "wrinklefree" / "chat_history").read_text()
    assert "Once upon a time" in history


def test_ctrl_c_stops_the_answer_alone(terminal: Terminal) -> None:
    terminal.type("/set max_tokens 400\n")
    terminal.type("Once upon a time\n")
    terminal.wait_for(r"\n.*[a-z]{3}")
    terminal.press("\x03")
    terminal.wait_for("stopped|400 tokens")
    terminal.type("/set\n")
    terminal.wait_for("max_tokens 400")
    terminal.type("/quit\n")
    assert terminal.process.wait(SECONDS) == 0


def test_pasted_lines_are_one_message(terminal: Terminal, tmp_path: Path) -> None:
    terminal.wait_for(r"\x1b\[\?2004h")  # asks the terminal to say what is pasted
    terminal.type("\x1b[200~Once upon\na time\x1b[201~\n")
    terminal.wait_for("20 tokens")
    saved = tmp_path / "chat.jsonl"
    terminal.type(f"/save {saved}\n")
    terminal.wait_for("saved in")
    assert json.loads(saved.read_text())["messages"][0]["content"] == "Once upon\na time"


def test_keys_pressed_during_an_answer_wait(terminal: Terminal) -> None:
    terminal.type("/set max_tokens 400\n")
    terminal.type("Once upon a time\n")
    terminal.wait_for(r"\n.*[a-z]{3}")
    terminal.press("/set seed typed_ahead\n")
    answer = terminal.wait_for(r"\d+ tokens")
    assert "typed_ahead" not in answer
    terminal.wait_for("seed needs a number, not 'typed_ahead'")


class Window:
    """A program in tmux, which shows what a person would see."""

    def __init__(self, *arguments: object, width: int, state: Path) -> None:
        self._tmux = ["tmux", "-L", f"wf-{uuid.uuid4().hex}", "-f", os.devnull]
        size = ["-x", str(width), "-y", "60"]
        self.call("new-session", "-d", *size, "-e", f"XDG_STATE_HOME={state}", *arguments)

    def call(self, *arguments: object) -> str:
        command = [*self._tmux, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    def wait_for(self, text: str, count: int = 1) -> list[str]:
        """The lines of the window, once they have `text` that often."""
        end = time.monotonic() + SECONDS
        while (screen := self.call("capture-pane", "-p")).count(text) < count:
            assert time.monotonic() < end, screen
            time.sleep(0.05)
        return screen.splitlines()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux: apt-get install tmux")
def test_lines_break_between_words_at_the_width_of_the_window(model: Path, tmp_path: Path) -> None:
    options = ["--temperature", 0, "--max-tokens", 90]
    window = Window(COMMAND, model, *options, width=40, state=tmp_path / "state")
    with LLM(model) as llm:
        message = {"role": "user", "content": "Once upon a time"}
        greedy = SamplingParams(temperature=0)
        words = llm.chat([message], max_tokens=90, sampling=greedy).text.split()
    try:
        window.wait_for("\n>")
        window.call("send-keys", "Once upon a time", "Enter")
        narrow = answer_in(window.wait_for("90 tokens"))
        window.call("resize-window", "-x", 70)
        window.call("send-keys", "/retry", "Enter")
        wide = answer_in(window.wait_for("90 tokens", 2))
    finally:
        window.call("kill-server")
    for lines, width in ((narrow, 40), (wide, 70)):
        assert " ".join(lines).split() == words
        assert width - 15 < max(map(len, lines)) <= width


def answer_in(lines: list[str]) -> list[str]:
    """The last answer: between the line that was typed and the one that tells the speed."""
    last = max(i for i, line in enumerate(lines) if line.startswith("90 tokens"))
    typed = max(i for i, line in enumerate(lines[:last]) if line.startswith("> "))
    return lines[typed + 1 : last]


@pytest.mark.parametrize("seed", range(20))
def test_words_are_wrapped_however_they_come(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices("ab日👍 \n\t-", [9, 9, 1, 1, 4, 1, 1, 2], k=400))
    cuts = sorted(chance.sample(range(len(text)), 30))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    widest = max(cell_len(word) for word in text.split())
    for width in (widest, 30, math.inf):
        wrap = WordWrap(lambda width=width: width)
        shown = "".join(map(wrap.add, pieces)) + wrap.rest()
        whole = WordWrap(lambda width=width: width)
        assert shown == whole.add(text) + whole.rest()
        assert "".join(shown.split()) == "".join(text.split())
        assert all(cell_len(line.rstrip()) <= max(width, widest) for line in shown.split("\n"))
    assert shown == text, "no width changes nothing"


def piped(model: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, str(model), "--temperature", "0", "--max-tokens", "12", *options]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS)


def test_piped_lines_get_answers_alone(model: Path) -> None:
    done = piped(model, "Once upon a time\n\nWhy?\n")
    assert done.returncode == 0, done.stderr
    with LLM(model) as llm:
        messages, wanted = [], ""
        for text in ("Once upon a time", "Why?"):
            messages.append({"role": "user", "content": text})
            greedy = SamplingParams(temperature=0)
            answer = llm.chat(messages, max_tokens=12, sampling=greedy).text
            messages.append({"role": "assistant", "content": answer})
            wanted += f"{answer}\n"
    assert done.stdout == wanted
    assert done.stderr == ""


def test_the_first_error_of_a_pipe_ends_it(model: Path) -> None:
    done = piped(model, "/nonsense\nOnce upon a time\n")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command /nonsense")
    assert done.stdout == ""


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = piped(tmp_path / "none", "Hello\n")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no model at")


def test_a_terminal_obeys_no_model() -> None:
    assert printable("a\x1b[2Jb\x07\r\x9bc") == "a\ufffd[2Jb\ufffd\ufffd\ufffdc"
    assert printable("é\n\t👩‍💻") == "é\n\t👩‍💻"
