"""`LLM`: one loaded model with its tokenizer."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wrinklefree import _engine
from wrinklefree.engine import default_sampling
from wrinklefree.engine.detokenize import StopMatcher, StreamDecoder
from wrinklefree.engine.logprobs import target_logprobs
from wrinklefree.engine.lookup import PromptLookup
from wrinklefree.engine.prompt_cache import PromptCache
from wrinklefree.engine.results import Completion, SamplingParams, Score, Timings
from wrinklefree.engine.tokenizer import Tokenizer, read_json
from wrinklefree.errors import FormatError, UsageError, WrinklefreeError

log = logging.getLogger(__name__)

KvCache = Literal["f32", "f16", "bf16", "int8"]

_MAX_DRAFTS = 32
_LOGIT_ROWS = 128  # rows of logits held at a time when scoring


class LLM:
    """A model in the native engine.

    `model` is an artifact directory, a Hugging Face directory or a .gguf file. `threads` defaults
    to what affinity and cgroup quota allow, `context` to the model's own. Without `act_quant`
    ternary layers run on float32 activations. `layout` of ternary weights in memory: t2 (2 bits),
    t1 (1.6 bits), or the faster one here; it changes no result. Neither does `head`: screened
    rules most of its rows out by an int8 copy where only the likeliest tokens are asked for.
    `kv_cache` is the type that keys and values are kept in: fewer bytes are faster and less exact
    over long contexts.
    `default_sampling` are the fields of SamplingParams that the model's files have a wish for; they
    hold where no SamplingParams are given.
    While the weights are read, `progress` gets (bytes done, bytes in all) twenty times a second;
    what it raises ends the load.

    Raises UsageError for a missing path, FormatError for a damaged file and WrinklefreeError for a
    model the engine cannot run.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        act_quant: bool = True,
        layout: Literal["auto", "t2", "t1"] = "auto",
        head: Literal["auto", "screened", "stored"] = "auto",
        kv_cache: KvCache = "f32",
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        path = Path(model)
        if not path.exists():
            raise UsageError(f"no model at {path}: give a model directory or a .gguf file")
        try:
            self.model = _engine.Model(
                str(path),
                threads=threads or 0,
                context=context or 0,
                act_quant=act_quant,
                layout=layout,
                head=head,
                kv_cache=kv_cache,
                progress=progress,
            )
        except _engine.FormatError as error:
            raise FormatError(str(error)) from error
        except _engine.ModelError as error:
            raise WrinklefreeError(str(error)) from error
        self.info: dict[str, Any] = self.model.info
        if path.is_dir():
            self.tokenizer = Tokenizer.from_dir(path)
            generation = path / "generation_config.json"
            wishes = default_sampling.from_generation_config(read_json(generation), str(generation))
        else:
            metadata = self.model.metadata
            self.tokenizer = Tokenizer.from_gguf(metadata)
            wishes = default_sampling.from_gguf(metadata, str(path))
        self.default_sampling: dict[str, Any] = wishes
        if self.tokenizer.vocab_size > self.info["vocab_size"]:
            raise FormatError(
                f"{path}: {self.tokenizer.vocab_size} tokens, but only "
                f"{self.info['vocab_size']} embedding rows"
            )

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        prompt_lookup: int = 0,
    ) -> Completion:
        """Continues a text (or token ids, taken as they are) by at most `max_tokens` tokens.

        Ends before an end token or a stop string. With `prompt_lookup` up to so many tokens are
        guessed from the text so far and checked in one step: the same tokens, sooner where the
        answer repeats its prompt. Raises UsageError when the prompt fills the context.
        """
        run = Generation(
            self, self._ids(prompt), max_tokens, sampling, stop=stop, prompt_lookup=prompt_lookup
        )
        text = "".join(run.deltas())
        return run.completion(text)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        prompt_lookup: int = 0,
    ) -> Iterator[str]:
        """As `generate`, piece by piece; a character is never split. Joined it is the same text."""
        ids = self._ids(prompt)
        run = Generation(self, ids, max_tokens, sampling, stop=stop, prompt_lookup=prompt_lookup)
        return run.deltas()

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int = 128,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        prompt_lookup: int = 0,
    ) -> Completion:
        """Answers a conversation of {"role", "content"} through the model's chat template.

        Raises TemplateError when there is no template or it refuses the messages.
        """
        from wrinklefree.engine.chat_template import chat_ids  # jinja2 is loaded only for chat

        ids = chat_ids(self.tokenizer, messages)
        return self.generate(
            ids,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            prompt_lookup=prompt_lookup,
        )

    def score(
        self, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[Score]:
        """Log likelihood of each continuation after the prompt, which is computed only once."""
        if not prompt_ids:
            raise UsageError("scoring needs a prompt of at least one token (for example BOS)")
        longest = max((len(continuation) for continuation in continuations), default=0)
        sequence = self._sequence(len(prompt_ids) + longest)
        shared = len(prompt_ids) - 1
        if shared:
            self._step(_engine.StepItem(sequence, list(prompt_ids[:-1])))
        # The last token of a continuation is scored, never read: those that differ only there
        # share a pass.
        groups: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, continuation in enumerate(continuations):
            if continuation:
                groups[tuple(continuation[:-1])].append(index)
        totals, is_greedy = [0.0] * len(continuations), [True] * len(continuations)
        for read, members in groups.items():
            sequence.truncate(shared)
            targets = np.array([continuations[index] for index in members])
            for block, logits in self._logit_blocks(sequence, [prompt_ids[-1], *read]):
                best = logits.argmax(axis=1)
                logprobs = target_logprobs(logits, targets[:, block])
                for index, goals, row in zip(members, targets[:, block], logprobs, strict=True):
                    totals[index] += float(row.sum())
                    is_greedy[index] &= bool((best == goals).all())
        return [
            Score(total, len(continuation), greedy)
            for total, continuation, greedy in zip(totals, continuations, is_greedy, strict=True)
        ]

    def logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """[T-1]: log p(token[t+1] | token[..t]) in nats."""
        sequence = self._sequence(max(len(token_ids), 1))
        targets = np.array([token_ids[1:]], dtype=np.int64)
        blocks = [
            target_logprobs(logits, targets[:, block])[0]
            for block, logits in self._logit_blocks(sequence, token_ids[:-1])
        ]
        return np.concatenate(blocks) if blocks else np.empty(0)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """[T, V]: logits of the token after each of `token_ids`."""
        item = _engine.StepItem(self._sequence(len(token_ids)), list(token_ids), None, "all")
        logits: NDArray[np.float32] = self._step(item).logits
        return logits

    def close(self) -> None:
        """Frees the weights; the object cannot be used after."""
        del self.model

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids and self.tokenizer.bos_id is not None:
            ids = [self.tokenizer.bos_id]
        if not ids:
            raise UsageError("the prompt is empty and the model has no BOS token to start from")
        return ids

    def _sequence(self, num_tokens: int) -> _engine.Sequence:
        try:
            return self.model.sequence(num_tokens)
        except _engine.ModelError as error:
            raise UsageError(str(error)) from error

    def _step(self, item: _engine.StepItem) -> _engine.StepOutput:
        try:
            return self.model.step([item])[0]
        except _engine.ModelError as error:
            raise UsageError(str(error)) from error

    def _logit_blocks(
        self, sequence: _engine.Sequence, inputs: Sequence[int]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Appends `inputs`; yields (their slice, logits [rows, V]), a bounded number at a time."""
        for start in range(0, len(inputs), _LOGIT_ROWS):
            block = slice(start, min(start + _LOGIT_ROWS, len(inputs)))
            output = self._step(_engine.StepItem(sequence, list(inputs[block]), None, "all"))
            yield block, output.logits


class Generation:
    """One run of `generate` or `stream`. With a `cache`, tokens that are in it are not computed
    again, and it holds this text afterwards."""

    def __init__(
        self,
        llm: LLM,
        prompt: list[int],
        max_tokens: int,
        sampling: SamplingParams | None,
        *,
        stop: Sequence[str] = (),
        prompt_lookup: int = 0,
        cache: PromptCache | None = None,
    ) -> None:
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {max_tokens}")
        if not 0 <= prompt_lookup <= _MAX_DRAFTS:
            raise UsageError(f"prompt_lookup must be 0 to {_MAX_DRAFTS}, not {prompt_lookup}")
        context = llm.info["context_length"]
        if len(prompt) >= context:
            raise UsageError(
                f"the prompt has {len(prompt)} tokens and the context holds {context}: "
                "there is no room for an answer"
            )
        if len(prompt) + max_tokens > context:
            max_tokens = context - len(prompt)
            log.info("max_tokens is cut to %d, what the context of %d leaves", max_tokens, context)
        sampling = sampling or SamplingParams(**llm.default_sampling)
        self._sampler = sampling.sampler(prompt)
        self._llm = llm
        self._prompt = prompt
        self._cache = cache
        self.num_cached = 0
        self._max_tokens = max_tokens
        self._decoder = StreamDecoder(llm.tokenizer)
        self._matcher = StopMatcher(stop)
        self._lookup = PromptLookup(prompt, prompt_lookup) if prompt_lookup else None
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._reports_logprobs = sampling.logprobs is not None
        self._finish_reason: Literal["stop", "length"] = "length"
        self._prompt_s = 0.0
        self._decode_s = 0.0
        self._decode_steps = 0

    def deltas(self) -> Iterator[str]:
        """Generates; each piece of text as soon as it is certain."""
        if self._cache is None:
            # The last sampled token is never an input, so the sequence holds one less.
            sequence = self._llm._sequence(len(self._prompt) + self._max_tokens - 1)
            yield from self._deltas(sequence, self._prompt)
            return
        self.num_cached = self._cache.begin(self._prompt)
        try:
            yield from self._deltas(self._cache.sequence, self._prompt[self.num_cached :])
        finally:
            computed = self._cache.sequence.length
            self._cache.tokens = (self._prompt + self._ids)[:computed]

    def _deltas(self, sequence: _engine.Sequence, prompt: list[int]) -> Iterator[str]:
        eos_ids = frozenset(self._llm.tokenizer.eos_ids)
        inputs, drafts = prompt, 0
        while len(self._ids) < self._max_tokens:
            item = _engine.StepItem(sequence, inputs, self._sampler, drafts=drafts)
            start = time.perf_counter()
            samples = self._llm._step(item).samples
            elapsed = time.perf_counter() - start
            if inputs is prompt:
                self._prompt_s = elapsed
            else:
                self._decode_s += elapsed
                self._decode_steps += 1
            for sample in samples:
                if sample.token in eos_ids:
                    self._finish_reason = "stop"
                    break
                self._ids.append(sample.token)
                if self._reports_logprobs:
                    self._logprobs.append(sample.logprob)
                if delta := self._matcher.push(self._decoder.push(sample.token)):
                    yield delta
                if self._matcher.is_stopped:
                    self._finish_reason = "stop"
                    return
            if self._finish_reason == "stop":
                break
            inputs = [samples[-1].token]
            if self._lookup:
                self._lookup.learn(drafts, len(samples) - 1)
                self._lookup.extend([sample.token for sample in samples])
                inputs += self._lookup.guess(self._max_tokens - len(self._ids) - 1)
            drafts = len(inputs) - 1
        if delta := self._matcher.push(self._decoder.flush()) + self._matcher.flush():
            yield delta

    def completion(self, text: str) -> Completion:
        return Completion(
            text=text,
            token_ids=tuple(self._ids),
            logprobs=tuple(self._logprobs),
            finish_reason=self._finish_reason,
            prompt_tokens=len(self._prompt),
            timings=Timings(self._prompt_s, self._decode_s, self._decode_steps),
        )
