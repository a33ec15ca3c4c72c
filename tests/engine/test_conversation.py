"""A chat keeps what it has computed, and answers as if it had not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrinklefree import LLM
from wrinklefree.engine import SamplingParams
from wrinklefree.engine.chat_template import chat_ids
from wrinklefree.engine.conversation import Conversation
from wrinklefree.engine.prompt_cache import PromptCache
from wrinklefree.errors import UsageError

GREEDY = SamplingParams(temperature=0)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
)


@pytest.fixture(scope="module")
def chat_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260K with a chat template."""
    path = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(data_dir / "stories260k_hf", path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def llm(chat_dir: Path) -> Iterator[LLM]:
    with LLM(chat_dir) as model:
        yield model


def ask(conversation: Conversation, text: str, max_tokens: int = 24) -> str:
    return "".join(conversation.ask(text, max_tokens=max_tokens, sampling=GREEDY))


def test_turns_answer_as_the_whole_conversation_computed_anew(llm: LLM) -> None:
    conversation = Conversation(llm, system="Tell a story.")
    for turn, text in enumerate(("Once upon a time", "And then?", "Why?")):
        answer = ask(conversation, text)
        head = [{"role": "system", "content": "Tell a story."}]
        anew = llm.chat(head + conversation.messages[:-1], max_tokens=24, sampling=GREEDY)
        assert answer == anew.text
        assert conversation.last is not None
        assert conversation.last.token_ids == anew.token_ids
        assert conversation.last.prompt_tokens == anew.prompt_tokens
        if turn > 0:
            assert conversation.num_cached > 20
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 3


def test_a_stopped_answer_is_kept_as_far_as_it_came(llm: LLM) -> None:
    conversation = Conversation(llm)
    answer = conversation.ask("Once upon a time", sampling=GREEDY)
    begun = "".join(next(answer) for _ in range(5))
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": begun}
    assert ask(conversation, "And then?") == (
        llm.chat(conversation.messages[:-1], max_tokens=24, sampling=GREEDY).text
    )


def test_an_answer_that_never_began_leaves_nothing(llm: LLM) -> None:
    conversation = Conversation(llm)
    ask(conversation, "Once upon a time")
    before = list(conversation.messages)
    with pytest.raises(UsageError, match="context holds"):
        ask(conversation, "word " * 600)
    assert conversation.messages == before
    assert ask(conversation, "Why?")


def test_undo(llm: LLM) -> None:
    conversation = Conversation(llm)
    with pytest.raises(UsageError, match="nothing"):
        conversation.undo()
    first = ask(conversation, "Once upon a time")
    ask(conversation, "Why?")
    assert conversation.undo() == "Why?"
    assert conversation.undo() == "Once upon a time"
    assert conversation.messages == []
    assert ask(conversation, "Once upon a time") == first


def test_instructions_change_what_follows(llm: LLM) -> None:
    conversation = Conversation(llm)
    ask(conversation, "Once upon a time")
    conversation.system = "There was a dog."
    messages = [{"role": "system", "content": conversation.system}, *conversation.messages]
    answer = ask(conversation, "Why?")
    messages.append({"role": "user", "content": "Why?"})
    assert answer == llm.chat(messages, max_tokens=24, sampling=GREEDY).text


def test_without_a_template_the_text_goes_on(data_dir: Path) -> None:
    with LLM(data_dir / "stories260k_hf") as llm:
        conversation = Conversation(llm)
        first = ask(conversation, "Once upon a time")
        assert first == llm.generate("Once upon a time", max_tokens=24, sampling=GREEDY).text
        text = f"Once upon a time{first} The dog"
        assert (
            ask(conversation, " The dog") == llm.generate(text, max_tokens=24, sampling=GREEDY).text
        )


def test_the_last_token_of_a_prompt_is_computed_again(llm: LLM) -> None:
    cache = PromptCache(llm.model.sequence(64))
    prompt = chat_ids(llm.tokenizer, [{"role": "user", "content": "a"}])
    assert cache.begin(prompt) == 0
    cache.tokens = []
    conversation = Conversation(llm)
    first = ask(conversation, "Once upon a time")
    conversation.undo()
    assert ask(conversation, "Once upon a time") == first  # all of its prompt was there
    assert conversation.last is not None
    assert conversation.num_cached == conversation.last.prompt_tokens - 1
