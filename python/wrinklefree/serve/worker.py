"""The engine thread: it alone owns the model and runs all generations in shared steps."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wrinklefree.engine import SamplingParams
from wrinklefree.engine.prompt_cache import num_shared
from wrinklefree.serve.errors import bad_request, overloaded, shutting_down
from wrinklefree.serve.generation import FinishReason, Generation, Prompt
from wrinklefree.serve.metrics import Metrics
from wrinklefree.serve.model import ServedModel, Token, Work
from wrinklefree.serve.prefix_cache import MIN_SHARED, NO_PREFIX, Prefix, PrefixCache
from wrinklefree.serve.settings import Settings

log = logging.getLogger("wrinklefree.serve")

# A step holds up every stream and every cancellation, so prefill chunks follow a time target.
STEP_TARGET_S = 0.1
MIN_CHUNK = 16
MAX_CHUNK = 512
SCORED_CHUNK = 128  # tokens of a scored prompt in a step: each gives a row of logits


class Worker:
    """Bounded queue, continuous batching, chunked prefill. Thread-safe: submit, cancel, counts."""

    def __init__(self, model: ServedModel, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self.metrics = Metrics(settings.model_name)
        self._prefixes = PrefixCache(model, settings.prefix_cache_bytes)
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._wake = threading.Condition()
        self._is_stopping = False
        self._is_closed = False  # the thread takes nothing more: stopped or broken
        self._has_generated = False
        self._chunk = 64
        self._mean_duration_s = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cancels what is left and waits for the thread; running steps are completed."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_ready(self) -> bool:
        """True once the model generated a token, until the worker is stopped or broken."""
        return self._has_generated and not self._is_stopping and not self._is_closed

    @property
    def is_broken(self) -> bool:
        """True if the thread ended although nobody stopped it; only a restart helps."""
        return self._is_closed and not self._is_stopping

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queues all of `generations` or none.

        Raises ApiError 429 when full, 503 when stopping, 400 if they could never fit.
        """
        if len(generations) > self._settings.capacity:
            raise bad_request(f"n: this server holds {self._settings.capacity} choices", param="n")
        for generation in generations:
            if generation.kv_tokens > self._settings.kv_tokens:
                raise bad_request(
                    f"max_tokens: prompt and answer may become {generation.max_length} tokens, "
                    f"but the memory of this server holds {self._settings.kv_tokens}",
                    param="max_tokens",
                    code="memory_exceeded",
                )
        with self._wake:
            if self._is_stopping or self._is_closed:
                raise shutting_down()
            num_taken = len(self._running) + len(self._waiting)
            if num_taken + len(generations) > self._settings.capacity:
                raise overloaded(self._retry_after_s())
            self._waiting.extend(generations)
            self._wake.notify()

    def cancel(self, generation: Generation) -> None:
        """Ends this generation before the next step, wherever it is; does nothing at its end."""
        generation.cancelled = True
        with self._wake:
            self._wake.notify()

    def _retry_after_s(self) -> int:
        rounds = math.ceil(len(self._waiting) / self._settings.parallel)
        return min(60, max(1, round(rounds * self._mean_duration_s)))

    def _run(self) -> None:
        try:
            self._warm_up()
            while self._wait_for_work():
                self._drop_cancelled()
                self._admit()
                if self._running:
                    self._step()
        except Exception:
            log.exception("the engine thread ended")
        finally:
            self._end_all()

    def _warm_up(self) -> None:
        """Generates one token, so that readiness is proven and the first request is not slow."""
        first = self._model.tokenizer.bos_id or 0
        slot = self._model.open([first], SamplingParams(temperature=0.0), max_tokens=2)
        self._model.step([Work(slot, [first], samples=True)])
        self._has_generated = True

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._waiting or self._running or self._is_stopping):
                self._wake.wait()
            return not self._is_stopping

    def _drop_cancelled(self) -> None:
        for generation in [g for g in (*self._running, *self._waiting) if g.cancelled]:
            self._end(generation, "cancelled")

    def _admit(self) -> None:
        with self._wake:
            while self._waiting and self._has_room_for(self._waiting[0]):
                self._waiting[0].started = time.perf_counter()
                self._running.append(self._waiting.popleft())
        self.metrics.running.set(self.num_running)
        self.metrics.waiting.set(self.num_waiting)

    def _has_room_for(self, generation: Generation) -> bool:
        """Whether another one may run. First come, first served: one that needs much memory is not
        overtaken by those that need little."""
        taken = sum(other.kv_tokens for other in self._running)
        is_place = len(self._running) < self._settings.parallel
        return is_place and taken + generation.kv_tokens <= self._settings.kv_tokens

    def _open(self, generation: Generation) -> bool:
        """Opens a slot, on top of what another one holds of the prompt; False if there is none yet,
        because a generation ahead computes that beginning right now."""
        prefix = self._longest_prefix(generation)
        if prefix is None:
            return False
        try:
            generation.slot = self._fork(prefix, generation)
            if generation.slot is None:
                prefix = NO_PREFIX
                generation.slot = self._model.open(
                    generation.prompt, generation.sampling, max_tokens=generation.max_length
                )
        except Exception:
            log.exception("no slot for a generation of %d tokens", generation.max_length)
            self._end(generation, "failed")
            return False
        generation.num_fed = generation.num_cached = prefix.length
        self.metrics.prefix_queries.inc(len(generation.prompt))
        self.metrics.prefix_hits.inc(prefix.length)
        return True

    def _fork(self, prefix: Prefix, generation: Generation) -> Any:
        """A slot that goes on behind `prefix`; None if nothing is shared, or nothing that is of
        use: that is forgotten, so that no other prompt meets it."""
        if prefix.length == 0:
            return None
        try:
            return self._model.fork(
                prefix.slot,
                prefix.length,
                generation.prompt,
                generation.sampling,
                max_tokens=generation.max_length,
            )
        except Exception:
            log.exception("a prompt of %d tokens that was kept is forgotten", prefix.length)
            self._prefixes.drop(prefix.slot)
            return None

    def _longest_prefix(self, generation: Generation) -> Prefix | None:
        """What is there of a prompt but its last token, whose logits are needed; None: wait for it.

        A scored prompt needs the logits of all its tokens.
        """
        if self._settings.prefix_cache_bytes == 0 or generation.scores_prompt:
            return NO_PREFIX
        tokens = generation.prompt[:-1]
        best = self._prefixes.find(tokens) or NO_PREFIX
        for other in self._running:
            if other is generation:
                break
            if other.slot is None or other.cancelled:
                continue
            shared = num_shared(other.prompt, tokens)
            if shared >= best.length + MIN_SHARED and shared > other.num_fed:
                return None
            if min(shared, other.num_fed) >= max(best.length + 1, MIN_SHARED):
                best = Prefix(other.slot, min(shared, other.num_fed))
        return best

    def _step(self) -> None:
        """One engine step: a token for every decoding slot and a chunk of waiting prompts."""
        batch, work, num_prefilled = self._plan()
        if not batch:  # the only one that runs got no slot
            return
        began = time.perf_counter()
        try:
            results = self._model.step(work)
        except Exception:
            # The slots may be half-written: none of them can go on, but new ones can.
            log.exception("the engine failed in a step of %d generations", len(batch))
            for generation in batch:
                self._end(generation, "failed")
            return
        self.metrics.steps.inc()
        self.metrics.count_head(self._model.head_counts)
        self._adapt_chunk(num_prefilled, time.perf_counter() - began)
        for generation, item, result in zip(batch, work, results, strict=True):
            generation.num_fed += min(len(item.tokens), generation.num_unfed)
            generation.scored.extend(result.scored)
            try:
                self._advance(generation, item, result.token)
            except Exception:
                log.exception("a token could not be turned into text")
                self._end(generation, "failed")

    def _advance(self, generation: Generation, item: Work, token: Token | None) -> None:
        """Sends what the step gave; a generation of no tokens ends with its prompt."""
        is_prompt_done = generation.num_unfed == 0 and generation.num_generated == 0
        if generation.scores_prompt and is_prompt_done:
            first = Token(generation.prompt[0], None)
            generation.emit(Prompt([first, *generation.scored]))
        if token is not None:
            self._take(generation, token)
        elif is_prompt_done:
            generation.first_token = time.perf_counter()
            self._end(generation, "length")

    def _plan(self) -> tuple[list[Generation], list[Work], int]:
        batch: list[Generation] = []
        work: list[Work] = []
        budget = self._chunk
        for generation in list(self._running):
            if generation.slot is None and (budget == 0 or not self._open(generation)):
                continue
            if generation.num_unfed and budget == 0:
                continue
            try:
                item = self._next_part(generation, budget)
            except Exception:
                log.exception("no next token under the grammar of a generation")
                self._end(generation, "failed")
                continue
            if generation.num_unfed:
                budget -= len(item.tokens)
            batch.append(generation)
            work.append(item)
        return batch, work, self._chunk - budget

    def _next_part(self, generation: Generation, budget: int) -> Work:
        """The last sampled token, or at most `budget` tokens of a prompt."""
        prompt, begin = generation.prompt, generation.num_fed
        if generation.num_unfed == 0:
            tokens: Sequence[int] = generation.generated[-1:]
            return Work(generation.slot, tokens, samples=True, allowed=_allowed(generation))
        most = min(budget, SCORED_CHUNK) if generation.scores_prompt else budget
        end = begin + min(most, generation.num_unfed)
        samples = end == len(prompt) and generation.max_tokens > 0
        return Work(
            generation.slot,
            prompt[begin:end],
            samples=samples,
            targets=prompt[begin + 1 : end + 1] if generation.scores_prompt else (),
            allowed=_allowed(generation) if samples else None,
        )

    def _adapt_chunk(self, num_prefilled: int, took_s: float) -> None:
        if num_prefilled < self._chunk:  # says nothing about a full chunk
            return
        if took_s > STEP_TARGET_S:
            self._chunk = max(MIN_CHUNK, self._chunk // 2)
        elif took_s < STEP_TARGET_S / 2:
            self._chunk = min(MAX_CHUNK, self._chunk * 2)

    def _take(self, generation: Generation, token: Token) -> None:
        if generation.num_generated == 0:
            generation.first_token = time.perf_counter()
        generation.generated.append(token.id)
        self.metrics.generation_tokens.inc()
        if token.id in generation.end_ids:
            self._end(generation, "stop")
            return
        delta = generation.text.push(token)
        if delta.text or delta.tokens:
            generation.emit(delta)
        if generation.grammar is not None:
            generation.grammar.take(token.id)
        if generation.text.is_stopped or _is_complete(generation):
            self._end(generation, "stop")
        elif generation.num_generated == generation.max_tokens:
            self._end(generation, "length")

    def _end(self, generation: Generation, reason: FinishReason) -> None:
        if reason in ("stop", "length"):
            tail = generation.text.finish()
            if tail.text or tail.tokens:
                generation.emit(tail)
            duration_s = time.perf_counter() - generation.started
            self._mean_duration_s += 0.2 * (duration_s - self._mean_duration_s)
        with self._wake:
            if generation in self._running:
                self._running.remove(generation)
            else:
                self._waiting.remove(generation)
        if generation.slot is not None and reason != "failed":
            self._prefixes.keep(generation.tokens, generation.slot)
            self.metrics.prefix_bytes.set(self._prefixes.num_bytes)
        generation.slot = None
        finished = generation.finished(reason)
        self.metrics.observe(finished)
        self.metrics.running.set(self.num_running)
        self.metrics.waiting.set(self.num_waiting)
        generation.emit(finished)

    def _end_all(self) -> None:
        with self._wake:
            self._is_closed = True
        for generation in [*self._running, *self._waiting]:
            is_planned = generation.cancelled or self._is_stopping
            self._end(generation, "cancelled" if is_planned else "failed")


def _allowed(generation: Generation) -> NDArray[np.uint32] | None:
    return generation.grammar.allowed() if generation.grammar is not None else None


def _is_complete(generation: Generation) -> bool:
    return generation.grammar is not None and generation.grammar.is_complete
