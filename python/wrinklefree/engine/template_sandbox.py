"""Where chat templates run: jinja2's sandbox as transformers sets it up, within limits.

Templates come with model files and are not trusted. Their deadline is looked at between two lines
of Python, so that no single step may take long: what makes a large value of small ones, as
`'x'|center(10**10)` or `s ~ s` do, is asked beforehand how large it would be.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import FrameType
from typing import Any, NoReturn, TypeVar

import jinja2
import jinja2.meta
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from wrinklefree.engine.template_limits import (
    GROWING,
    TEXTS,
    check_arithmetic,
    check_growth,
    check_numbers,
    check_percent,
    check_size,
    own_size,
    size,
)
from wrinklefree.errors import WrinklefreeError

_MAX_COMPILE_SECONDS = 4.0  # a template of 20 kB takes one, once
_MAX_SECONDS = 0.4
_MAX_CHARACTERS = 4_000_000  # of a prompt

Result = TypeVar("Result")


class TemplateError(WrinklefreeError):
    """A chat template that is broken, refuses the messages, or takes too long."""


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """The prompt text of `messages` ({"role", "content"}, and what else the template knows) and
    `tools` (OpenAI's form). Raises TemplateError."""
    compiled = _compiled(template)

    def write() -> str:
        pieces = []
        written = 0
        for piece in compiled.generate(
            messages=list(messages),
            tools=list(tools) or None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        ):
            written += len(piece)
            if written > _MAX_CHARACTERS:
                raise TemplateError(f"the chat template writes over {_MAX_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)

    return _limited(write, _Deadline(_MAX_SECONDS).trace_lines)


def takes_tools(template: str) -> bool:
    """Whether the template reads `tools`. Raises TemplateError for one that is broken."""

    def read() -> bool:
        return "tools" in jinja2.meta.find_undeclared_variables(_Sandbox().parse(template))

    return _limited(read, _Deadline(_MAX_COMPILE_SECONDS).trace_calls)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    def compile_it() -> jinja2.Template:
        return _Sandbox().from_string(template)

    return _limited(compile_it, _Deadline(_MAX_COMPILE_SECONDS).trace_calls)


class _Deadline:
    """Raises TemplateError from inside running code once its time is over: that of this thread, so
    that a busy machine refuses no template."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.thread_time() + seconds

    def trace_lines(self, _frame: FrameType, _event: str, _argument: object) -> Any:
        self._check()
        return self.trace_lines

    def trace_calls(self, _frame: FrameType, _event: str, _argument: object) -> None:
        """Costs a third, and misses only code without calls, which a compiler has none of."""
        self._check()

    def _check(self) -> None:
        if time.thread_time() > self._end:
            raise TemplateError(f"the chat template takes longer than {self._seconds} s")


def _limited(run: Callable[[], Result], trace: Any) -> Result:
    """What `run` returns. Whatever the template's code raises becomes a TemplateError."""
    previous = sys.gettrace()
    try:
        sys.settrace(trace)
        return run()
    except WrinklefreeError:
        raise
    except RecursionError as error:
        raise TemplateError("the chat template recurses too deeply") from error
    except Exception as error:  # template code may raise anything
        raise TemplateError(f"chat template: {error}") from error
    finally:
        sys.settrace(previous)


class _Generation(Extension):
    """`{% generation %}`: what the assistant writes, which transformers can mark for training."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _CodeGenerator(CodeGenerator):
    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Frame) -> None:
        """`a ~ b`, which is no operator that a sandbox can intercept."""
        self.write("environment.concat(environment.texts((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write(")))")


class _Formatter(SandboxedFormatter):
    """`str.format` of one text."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self._written = 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        check_numbers(int(number) for number in re.findall(r"\d+", format_spec))
        self._written += size(value)
        check_size(self._written)
        return super().format_field(value, format_spec)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which values stay small."""

    intercepted_binops = frozenset({"+", "*", "**", "//", "%"})
    code_generator_class = _CodeGenerator

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=_finalize,
            optimized=False,  # nothing is computed while compiling
        )
        self.filters["tojson"] = _to_json
        for name in GROWING.keys() & self.filters.keys():
            self.filters[name] = _bounded_filter(name, self.filters[name])
        self.filters["format"] = _format
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "%" and isinstance(left, str | bytes):
            check_percent(left, right)
        elif isinstance(left, int | float) and isinstance(right, int | float):
            check_arithmetic(operator, left, right)
        elif operator == "*":
            times = left if isinstance(left, int) else right
            value = right if isinstance(left, int) else left
            if isinstance(times, int) and isinstance(value, TEXTS):
                check_size(own_size(value) * times)
        elif operator == "+":
            check_size(own_size(left) + own_size(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        subject = getattr(obj, "__self__", None)
        if isinstance(subject, str | bytes | int) and obj.__name__ in GROWING:
            args = _without_iterators(args)
            check_growth(obj.__name__, subject, (*args, *kwargs.values()))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                (kwargs,) = args
                args = ()
            return _Formatter(self).vformat(value.__self__, args, kwargs)

        return bounded

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What macros, `{% set %}` blocks and `~` join."""
        parts = list(parts)
        check_size(sum(map(len, parts)))
        return "".join(parts)

    @staticmethod
    def texts(values: Iterable[Any]) -> list[str]:
        return [str(_measured(value)) for value in values]


@jinja2.pass_context  # that is: not while compiling
def _finalize(_context: jinja2.runtime.Context, value: Any) -> Any:
    return _measured(value)


def _measured(value: Any) -> Any:
    check_size(size(value))
    return value


def _without_iterators(values: Iterable[Any]) -> tuple[Any, ...]:
    """With lists instead, which have a size."""
    return tuple(list(value) if isinstance(value, Iterator) else value for value in values)


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # the value comes after the context

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        args = _without_iterators(args)
        check_growth(name, args[first], (*args[first + 1 :], *kwargs.values()))
        return function(*args, **kwargs)

    return bounded


def _format(text: object, *args: Any, **kwargs: Any) -> str:
    values: Any = kwargs or args
    check_percent(str(text), values)
    formatted: str = str(text) % values
    return formatted


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(f"chat template: {message}")
