"""`Conversation`: a chat with one model, turn by turn."""

from __future__ import annotations

from collections.abc import Generator

from wrinklefree.engine.llm import LLM, Generation
from wrinklefree.engine.prompt_cache import PromptCache
from wrinklefree.engine.results import Completion, SamplingParams
from wrinklefree.errors import UsageError


class Conversation:
    """Messages of a chat, whose keys and values stay in memory: a turn computes only what is new.

    A model without a chat template continues the messages as plain text, one after another.
    `messages` are {"role", "content"}; `last` is the latest answer, also one that was stopped.
    """

    def __init__(self, llm: LLM, *, system: str = "") -> None:
        self.system = system  # instructions in front of the messages; "" for none
        self.messages: list[dict[str, str]] = []
        self.last: Completion | None = None
        self.num_cached = 0  # prompt tokens of `last` that had been computed before
        self._llm = llm
        self._cache = PromptCache(llm.model.sequence(llm.info["context_length"]))

    def ask(
        self, text: str, *, max_tokens: int = 1024, sampling: SamplingParams | None = None
    ) -> Generator[str, None, None]:
        """Adds a message of the user and yields the answer piece by piece.

        An answer that is not read to its end (Ctrl-C) is kept as far as it came. Raises UsageError
        when the context is full and TemplateError when the template refuses the messages; neither
        changes the conversation.
        """
        self.messages.append({"role": "user", "content": text})
        answer: list[str] = []
        is_complete = False
        try:
            run = Generation(self._llm, self._prompt(), max_tokens, sampling, cache=self._cache)
            for piece in run.deltas():
                answer.append(piece)
                yield piece
            is_complete = True
        finally:
            if is_complete or answer:
                self.messages.append({"role": "assistant", "content": "".join(answer)})
                self.last, self.num_cached = run.completion("".join(answer)), run.num_cached
            else:
                self.messages.pop()

    def undo(self) -> str:
        """Takes the last turn back and returns what the user had written.

        Raises UsageError when there is none.
        """
        if not self.messages:
            raise UsageError("there is nothing to take back")
        del self.messages[-1]
        return self.messages.pop()["content"]

    def _prompt(self) -> list[int]:
        tokenizer = self._llm.tokenizer
        if tokenizer.chat_template is None:
            return tokenizer.encode("".join(message["content"] for message in self._all()))
        from wrinklefree.engine.chat_template import chat_ids  # jinja2 is loaded only for chat

        return chat_ids(tokenizer, self._all())

    def _all(self) -> list[dict[str, str]]:
        head = [{"role": "system", "content": self.system}] if self.system else []
        return head + self.messages
