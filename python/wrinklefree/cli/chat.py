"""wf-chat MODEL: talk to a model in the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from wrinklefree.cli.command import Command, verbose_option, version_option
from wrinklefree.cli.word_wrap import WordWrap
from wrinklefree.errors import UsageError, WrinklefreeError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from wrinklefree.engine import LLM, SamplingParams
    from wrinklefree.engine.conversation import Conversation
    from wrinklefree.engine.llm import KvCache

EXAMPLES = """
wf-chat student.gguf
wf-chat runs/s3 --system "Answer in one sentence." --temperature 0
echo "What is a ternary weight?" | wf-chat student.gguf
"""
HISTORY_LINES = 1000
# Where neither the user nor the model says.
DEFAULTS = {"temperature": 0.7, "top_p": 0.95}
# Settings that /set changes, and how their text is read.
SETTINGS: dict[str, Callable[[str], float]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "max_tokens": int,
}


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--system", default="", help="Instructions in front of the conversation.")
@click.option(
    "--temperature", type=click.FloatRange(0, 2), help="Default: the model's own, else 0.7."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    help="Default: the model's own, else 0.95.",
)
@click.option("--seed", type=int, help="The same answers every time; -1: other ones.")
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: what this process may use.")
@click.option("--context", type=click.IntRange(min=2), help="Tokens; default: the model's own.")
@click.option(
    "--kv-cache",
    type=click.Choice(["f32", "f16", "bf16", "int8"]),
    default="f32",
    show_default=True,
    help="Type of keys and values in memory.",
)
@verbose_option
@version_option("wf-chat")
def main(
    model: Path,
    system: str,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    max_tokens: int,
    threads: int | None,
    context: int | None,
    kv_cache: KvCache,
) -> None:
    """Talk to MODEL, an artifact directory or a .gguf file.

    /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends the conversation. Lines that come
    from a pipe are answered one after another.
    """
    from rich.console import Console

    from wrinklefree.cli.loading import loading_line
    from wrinklefree.engine import LLM, SamplingParams
    from wrinklefree.engine.conversation import Conversation

    options = {"temperature": temperature, "top_p": top_p}
    given = {name: value for name, value in options.items() if value is not None}
    with LLM(
        model, threads=threads, context=context, kv_cache=kv_cache, progress=loading_line()
    ) as llm:
        chat = Chat(
            llm,
            Conversation(llm, system=system),
            SamplingParams(**{**DEFAULTS, **llm.default_sampling, **given}, seed=seed),
            max_tokens,
            Console(highlight=False, soft_wrap=True),
            is_typed=sys.stdin.isatty(),
        )
        chat.run(typed_lines() if chat.is_typed else (line.rstrip("\n") for line in sys.stdin))


def typed_lines() -> Iterator[str]:
    """Lines of a person, with editing and the history of earlier conversations."""
    import readline

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    history = state / "wrinklefree" / "chat_history"
    readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one message
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # there is none before the first conversation
        readline.read_history_file(history)
    try:
        while True:
            try:
                line = input("\n> ")
                while line.endswith("\\"):
                    line = f"{line[:-1]}\n{input('  ')}"
            except KeyboardInterrupt:  # what was typed is dropped
                continue
            except EOFError:
                print()
                return
            yield line
    finally:
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
        except OSError as error:
            click.echo(f"the history is not kept: {error}", err=True)


@contextlib.contextmanager
def keys_unseen() -> Iterator[None]:
    """Keys pressed meanwhile are not shown in the answer; the next prompt gets them."""
    import termios

    before = termios.tcgetattr(sys.stdin)
    during = termios.tcgetattr(sys.stdin)
    during[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, during)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@dataclass(slots=True)
class Chat:
    """The conversation and what its commands change. Lines that nobody types get answers alone, and
    the first error ends them."""

    llm: LLM
    conversation: Conversation
    sampling: SamplingParams
    max_tokens: int
    console: Console
    is_typed: bool
    is_over: bool = field(default=False, init=False)

    def run(self, lines: Iterator[str]) -> None:
        self._greet()
        for line in lines:
            if not line.strip():
                continue
            try:
                if line.startswith("/"):
                    self._command(line)
                else:
                    self._answer(line)
            except WrinklefreeError as error:
                if not self.is_typed:
                    raise
                self._note(f"error: {error}")
            if self.is_over:
                return

    def _greet(self) -> None:
        from wrinklefree.engine.default_sampling import described

        info = self.llm.info
        self._note(
            f"{info['bits_per_weight']:.2f} bits per weight, {info['isa']}, {info['threads']} "
            f"threads, context {info['context_length']} · /help lists commands"
        )
        if self.llm.tokenizer.chat_template is None:
            self._note("the model has no chat template: it continues what you write")
        if wishes := self.llm.default_sampling:
            self._note(f"the model's own sampling: {described(wishes)}")

    def _answer(self, text: str) -> None:
        answer = self.conversation.ask(text, max_tokens=self.max_tokens, sampling=self.sampling)
        wrap = WordWrap(lambda: columns(sys.stdout))
        is_stopped = False
        with keys_unseen() if self.is_typed else contextlib.nullcontext():
            try:
                for piece in answer:
                    self._show(wrap.add(printable(piece)))
            except KeyboardInterrupt:
                is_stopped = True
                answer.close()
            self._show(f"{wrap.rest()}\n")
        if is_stopped:
            self._note("stopped")
        else:
            self._tell_speed()

    def _show(self, text: str) -> None:
        self.console.print(text, end="", markup=False)
        self.console.file.flush()

    def _tell_speed(self) -> None:
        done, cached = self.conversation.last, self.conversation.num_cached
        assert done is not None
        timings = done.timings
        parts = [f"{len(done.token_ids)} tokens"]
        if timings.decode_s > 0:
            parts.append(f"{(len(done.token_ids) - 1) / timings.decode_s:.1f} tokens/s")
        parts.append(f"first after {timings.prompt_s:.2f} s")
        parts.append(f"{done.prompt_tokens} of {self.llm.info['context_length']} in context")
        if cached:
            parts.append(f"{cached} of them kept")
        if done.finish_reason == "length":
            parts.append("cut at its limit")
        self._note(" · ".join(parts))

    def _note(self, text: str) -> None:
        """A line about the conversation."""
        if self.is_typed:
            wrap = WordWrap(lambda: columns(sys.stderr))
            click.echo(click.style(wrap.add(text) + wrap.rest(), dim=True), err=True)

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise UsageError(f"no command /{name}{nearest(name, COMMANDS)} (/help lists them)")
        COMMANDS[name][1](self, rest.strip())

    def _help(self, _: str) -> None:
        lines = {f"/{name}": text for name, (text, _action) in COMMANDS.items()}
        lines["... \\"] = "goes on in the next line; pasted lines are one message"
        for name, text in lines.items():
            start, indent = f"{name:10}", " " * 10
            width = int(min(max(columns(sys.stdout), 2 * len(indent)), 100))
            filled = textwrap.fill(text, width, initial_indent=start, subsequent_indent=indent)
            self.console.print(filled, markup=False)

    def _system(self, text: str) -> None:
        self.conversation.system = text
        self._note("the model is told so from the next message on" if text else "no instructions")

    def _reset(self, _: str) -> None:
        self.conversation.messages.clear()
        self._note("forgotten")

    def _undo(self, _: str) -> None:
        self._note(f"took back: {self.conversation.undo()}")

    def _retry(self, _: str) -> None:
        self._answer(self.conversation.undo())

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not text:
            values = {field: getattr(self.sampling, field, self.max_tokens) for field in SETTINGS}
            self.console.print(*(f"{key} {value}" for key, value in values.items()), sep="\n")
            return
        if name not in SETTINGS:
            raise UsageError(
                f"no setting {name!r}{nearest(name, SETTINGS)}; there are {', '.join(SETTINGS)}"
            )
        try:
            number = SETTINGS[name](value)
        except ValueError:
            raise UsageError(f"{name} needs a number, not {value!r}") from None
        if name == "max_tokens":
            if number < 1:
                raise UsageError("max_tokens must be at least 1")
            self.max_tokens = int(number)
        else:
            changes: dict[str, Any] = {name: number}
            sampling = dataclasses.replace(self.sampling, **changes)
            sampling.sampler()  # raises UsageError for a value out of range
            self.sampling = sampling

    def _save(self, text: str) -> None:
        if not text:
            raise UsageError("/save needs a file name")
        path = Path(text).expanduser()
        system = self.conversation.system
        head = [{"role": "system", "content": system}] if system else []
        record = {"messages": head + self.conversation.messages}
        try:
            path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        self._note(f"saved in {path}, a record of data.format=chat")

    def _quit(self, _: str) -> None:
        self.is_over = True


COMMANDS: dict[str, tuple[str, Callable[[Chat, str], None]]] = {
    "help": ("lists the commands", Chat._help),
    "retry": ("answers the last message again", Chat._retry),
    "undo": ("takes the last message and its answer back", Chat._undo),
    "reset": ("forgets the conversation", Chat._reset),
    "system": ("TEXT: instructions in front of the conversation", Chat._system),
    "set": ("NAME VALUE: changes how tokens are chosen; alone it shows that", Chat._set),
    "save": ("FILE: writes the conversation as one line of JSON", Chat._save),
    "quit": ("ends, as Ctrl-D does", Chat._quit),
}


def columns(stream: TextIO) -> float:
    """Of the window it is shown in, without end for a file. What COLUMNS in the environment says
    may be older than the window's size."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return math.inf


def printable(text: str) -> str:
    """Text whose control characters, which a terminal would obey, are shown as U+FFFD."""
    return "".join(
        "\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text
    )
