"""Conversations: the template's own tokens, loss on answers alone, and texts that cheat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from wrinklefree.configs.config import SourceConfig
from wrinklefree.data.encode import IGNORE
from wrinklefree.data.packing import TokenRows, tokenize
from wrinklefree.data.records import ChatRecord, parse
from wrinklefree.errors import FormatError, UsageError

TURNS = (
    ("system", "Be brief."),
    ("user", "Name a colour."),
    ("assistant", "Blue, naïvely 🚀."),
    ("user", "Another?"),
    ("assistant", "Red"),
)


@pytest.fixture(scope="session")
def smol(data_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(data_dir / "tokenizer_smollm2")


def rows_of(tokenizer: PreTrainedTokenizerBase, *turns: tuple[str, str]) -> TokenRows:
    return tokenize([ChatRecord(turns, "here")], tokenizer, max_length=256)


def answers(rows: TokenRows, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of the labelled stretches."""
    where = np.flatnonzero(rows.targets != IGNORE)
    runs = np.split(where, np.flatnonzero(np.diff(where) != 1) + 1)
    return [tokenizer.decode(rows.targets[run]) for run in runs]


def test_tokens_are_the_templates_and_labels_the_answers(smol: PreTrainedTokenizerBase) -> None:
    rows = rows_of(smol, *TURNS)
    messages = [{"role": role, "content": content} for role, content in TURNS]
    expected = smol.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert rows.tokens.tolist() == expected
    assert answers(rows, smol) == ["Blue, naïvely 🚀.<|im_end|>", "Red<|im_end|>"]
    labelled = np.flatnonzero(rows.targets != IGNORE)
    assert (rows.targets[labelled] == rows.tokens[labelled + 1]).all()


def test_a_template_that_trims_answers_keeps_its_labels(smol: PreTrainedTokenizerBase) -> None:
    trims = AutoTokenizer.from_pretrained(smol.name_or_path)
    trims.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }} <|im_end|>{% endfor %}"
    )
    turns = [(role, f"  {content}\n") for role, content in TURNS]
    # The space before the answer is part of the answer's first token.
    assert answers(rows_of(trims, *turns), trims) == [
        " Blue, naïvely 🚀. <|im_end|>",
        " Red <|im_end|>",
    ]


LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ ' ' + m.content.strip() + ' <|im_end|>' }}"
    "{% else %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}{% endif %}{% endfor %}"
)
VERBATIM = "{% for m in messages %}{{ m.role + ':' + m.content + ' <|im_end|>' }}{% endfor %}"


@pytest.mark.parametrize("before", ["", " "])
@pytest.mark.parametrize("after", ["", " ", "  ", "\n"])
@pytest.mark.parametrize("template", [LLAMA_2, VERBATIM], ids=["Llama-2", "verbatim"])
def test_white_space_around_an_answer_is_not_the_templates(
    smol: PreTrainedTokenizerBase, template: str, before: str, after: str
) -> None:
    other = AutoTokenizer.from_pretrained(smol.name_or_path)
    other.chat_template = template
    rows = rows_of(other, *((role, f"{before}{text}{after}") for role, text in TURNS))
    # Llama 2's own space before the answer is part of the answer's first token.
    before, after = (before, after) if template == VERBATIM else (" ", "")
    assert answers(rows, other) == [
        f"{before}{text}{after} <|im_end|>" for role, text in TURNS if role == "assistant"
    ]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_text_cannot_become_a_special_token(smol: PreTrainedTokenizerBase, role: str) -> None:
    turns = [(name, text + "<|im_end|>" * (name == role)) for name, text in TURNS]
    with pytest.raises(FormatError, match=r"here, message \d: .*special token <\|im_end\|>"):
        rows_of(smol, *turns)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system turn') }}", "refuses it: no system turn"),
        ("{{ messages[-1].content }}", "drops or repeats"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes an answer"),
        ("{% for m in messages %}{{ m.content.foo.bar }}{% endfor %}", "refuses it"),
    ],
    ids=["raises", "drops", "changes", "breaks"],
)
def test_a_template_that_cannot_say_it_is_an_error(
    smol: PreTrainedTokenizerBase, template: str, words: str
) -> None:
    other = AutoTokenizer.from_pretrained(smol.name_or_path)
    other.chat_template = template
    with pytest.raises(FormatError, match=f"here: .*{words}"):
        rows_of(other, *TURNS)


def test_no_template_says_what_to_do(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UsageError, match=r"no chat template.*data\.format=sft"):
        rows_of(tokenizer, *TURNS)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "must be a list"),
        ([], "must be a list"),
        (["hi"], "message 1: expected"),
        ([{"role": "user"}], 'message 1: needs a string "content"'),
        ([{"role": "user", "content": "hi"}], "assistant"),
        ([{"role": "assistant", "content": " "}], "none of them empty"),
    ],
)
def test_a_bad_conversation_is_named(messages: object, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        parse({"messages": messages}, SourceConfig(path="p", format="chat"), "here")
