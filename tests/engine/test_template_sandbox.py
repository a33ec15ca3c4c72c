"""Chat templates: transformers' text, and what a hostile template cannot do."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import pytest

from wrinklefree.engine.template_sandbox import TemplateError, render, takes_tools

MESSAGES = [
    {"role": "user", "content": "Hello <b> 'é'"},
    {"role": "assistant", "content": "", "calls": [{"name": "f", "arguments": {"b": 1, "a": [2]}}]},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
MEMORY = 1 << 30


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}!"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        "{{ messages | tojson }}",
        "{{ messages | tojson(ensure_ascii=True) }}",
        "{{ messages | tojson(indent=2, sort_keys=True) }}",
        "{{ messages | tojson(False, 4) }}",
        "{{ messages | tojson(separators=(',', ':')) }}",
        "{{ messages | map('tojson', indent=1) | join(', ') }}",
        "{% if tools is not none %}{{ tools | tojson(indent=4) }}{% endif %}",
        "{{ tools is defined }} {{ documents is none }}",
        "{{ '-' * 40 }}{{ 3 * 'ab' }}{{ [1, 2] * 2 }}{{ (1,) * 2 }}{{ 'x' * -1 }}{{ 2 ** 10 }}",
        "{{ 7 * 6 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 1.5 * 2 }} {{ 7 / 2 }} {{ 2 ** -1 }}",
        "{{ '%5.2f|%-4s|%%|%d' % (1.5, 'a', 1700000000) }}{{ '%(a)s' % {'a': 1} }}",
        "{{ '%s in %s' | format('a', 1700000000) }}{{ '{:>5}|{x}'.format(1, x='y') }}",
        "{{ '{a}'.format_map({'a': messages[0].role}) }}",
        "{{ 'x' | center(9) }}{{ 'x'.ljust(4) }}{{ '7'.zfill(3) }}{{ 'a\\tb'.expandtabs(8) }}|",
        "{{ 'a\\nb' | indent(2, first=True) }}{{ 'a b' | replace(' ', '--') }}",
        "{{ 'a b'.replace('a', 'c') }}{{ ', '.join(['a', 'b']) }}{{ ['a', 'b'] | join('-') }}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ 3.14159 | round(2) }}",
        "{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}{{ [1, 2] | sum }}",
        "{% set ns = namespace(s='', l=[]) %}{% for i in range(9) %}{% set ns.s = ns.s ~ i %}"
        "{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.s }}{{ ns.l }}{{ 'a' + 'b' ~ 1 ~ none }}",
        "{% macro f(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ f(1) }}{{ f(1, y='z') }}",
        "{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}{{ x.split('a') }}",
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}"
        "{% endif %}{{ i }}{% endfor %}",
        "{{ '{0.__class__}'.format(1) }}",  # nothing
        "{{ strftime_now('%Y') }}{{ dict(a=1) }}{{ undefined_name }}",
        "  {%- if true %}\n  a\n  {%- endif %}\n  {# note #}\nb",
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_text_is_that_of_transformers(template: str, tools: list[dict[str, object]]) -> None:
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    (wanted,), _ = chat_template_utils.render_jinja_template(
        [MESSAGES], tools=tools or None, chat_template=template, add_generation_prompt=True
    )
    assert render(template, MESSAGES, tools=tools) == wanted


@pytest.fixture
def little_memory() -> Iterator[None]:
    """An address space of 1 GiB more than now: larger requests fail and are no TemplateError
    about size."""
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: PTH123, SIM115
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' | center(20000000000) }}",
        "{{ '%20000000000d' % 1 }}",
        "{{ '%.20000000000f' % 1 }}",
        "{{ '%*d' % (20000000000, 1) }}",
        "{{ '%20000000000d' | format(1) }}",
        "{{ '{:20000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 20000000000) }}",
        "{{ '{:{}{}}'.format(1, 99999, 99999) }}",
        "{{ '{x:>20000000000}'.format_map({'x': 1}) }}",
        "{{ 'x'.ljust(20000000000) }}",
        "{{ 'x'.rjust(20000000000) }}",
        "{{ 'x'['center'](20000000000) }}",
        "{{ ('x' | attr('zfill'))(20000000000) }}",
        "{{ ['x'] | map('center', 20000000000) | list }}",
        "{{ ('x' | escape).ljust(20000000000) }}",
        "{{ '\t'.expandtabs(2000000000) }}",
        "{{ 'x' * 20000000000 }}",
        "{{ 20000000000 * 'x' }}",
        "{{ ([1] * 2000000000) | length }}",
        "{{ ((1,) * 2000000000) | length }}",
        "{{ (1).to_bytes(20000000000) }}",
        "{{ 'x' | indent(20000000000, first=True) }}",
        "{{ [1] | tojson(indent=2000000000) }}",
        "{{ 1 | round(2000000000, 'floor') }}",
        "{{ [1] | batch(2000000000, 0) | list }}",
        "{{ 9 ** 99999 }}",
        "{% set b = 'x' * 9999999 %}{{ (b * 1) | replace('x', b) }}",
        "{% set b = 'x' * 9999999 %}{{ b.replace('x', b) }}",
        "{% set b = 'x' * 9999999 %}{{ b.join(range(9999) | map('string')) }}",
        "{% set b = 'x' * 9999999 %}{{ range(9999) | map('string') | join(b) }}",
        "{% set b = 'x' * 9999999 %}{{ b.translate({120: b}) }}",
        "{% set b = 'x' * 9999999 %}{{ 'a b c d' | wordwrap(1, wrapstring=b) }}",
        "{% set b = 'x' * 9999999 %}{{ '" + "{0}" * 999 + "'.format(b) }}",
        "{% set b = 'x' * 9999999 %}{{ '" + "%(a)s" * 999 + "' % {'a': b} }}",
        "{% set b = 'x' * 9999999 %}{{ " + "b ~ " * 999 + "b }}",
        "{% set b = 'x' * 9999999 %}{{ b" + " + b" * 99 + " }}",
        "{% set b = 'x' * 9999999 %}{% set c %}" + "{{ b }}" * 999 + "{% endset %}{{ c }}",
        "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
        "{% endfor %}{{ n.l }}",
        "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
        "{% endfor %}{{ n.l | tojson }}",
        "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}"
        "{% endfor %}{{ n.l ~ '' }}",
        "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}",
    ],
    ids=lambda template: template[:70],
)
@pytest.mark.usefixtures("little_memory")
def test_small_templates_build_no_huge_values(template: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError, match=r"over \d|longer than"):
        render(template, MESSAGES)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ range(10**9) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ '0123456789' ~ '0123456789' ~ '0123456789' ~ i }}"
        "{{ '0123456789012345678901234567890123456789' }}{% endfor %}" * 9,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
        "{% if %}",
        "{{ undefined.attribute }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ 1 }}{% if x %}" * 200_000,
    ],
    ids=lambda template: template[:30],
)
def test_hostile_and_broken_templates_are_one_error_in_time(template: str) -> None:
    start = time.process_time()
    with pytest.raises(TemplateError) as error:
        render(template, MESSAGES)
    assert time.process_time() - start < 7.0  # 4 s to compile, 0.4 s to run, and a busy machine
    assert "\n" not in str(error.value)


def test_messages_cannot_be_changed_by_the_template() -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(TemplateError):
        render("{{ messages.append(1) }}", messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_long_messages_are_rendered() -> None:
    """The limits on values are no limits on what people write."""
    content = "word <think> word\n" * 50_000
    template = (
        "{% set x = messages[0].content.replace('<think>', '') | trim | indent(2) %}"
        "{{ x.split('\n') | join(' \n') }}{{ messages | tojson }}"
    )
    text = render(template, [{"role": "user", "content": content}])
    assert len(text) > 2 * len(content) - 400_000


def test_taking_tools() -> None:
    assert takes_tools("{% generation %}{{ tools | tojson(indent=2) }}{% endgeneration %}")
    assert not takes_tools("{% set tools = 1 %}{{ tools }}")
    for broken in ("{% if %}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"):
        with pytest.raises(TemplateError):
            takes_tools(broken)
