"""What /metrics tells Prometheus; names end like vLLM's, so that its dashboards need one edit."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from wrinklefree.serve.generation import Finished

PREFIX = "wrinklefree:"
# Seconds: a token of a small model takes a millisecond, a long prompt on a busy machine minutes.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Numbers of one server, written by its engine thread."""

    def __init__(self, model_name: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        labels = {"labelnames": ("model_name",), "registry": registry}

        def counter(name: str, text: str) -> Counter:
            return Counter(PREFIX + name, text, **labels).labels(model_name)  # type: ignore[arg-type]

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(PREFIX + name, text, **labels).labels(model_name)  # type: ignore[arg-type]

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            metric = Histogram(PREFIX + name, text, buckets=buckets, **labels)  # type: ignore[arg-type]
            return metric.labels(model_name)

        self.running = gauge("num_requests_running", "Answers that share the engine's steps.")
        self.waiting = gauge("num_requests_waiting", "Answers that wait for a place.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of answers that ended.")
        self.generation_tokens = counter("generation_tokens", "Tokens that were sampled.")
        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens that were looked up.")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens that were there already.")
        self.prefix_bytes = gauge("prefix_cache_bytes", "Keys and values kept for later prompts.")
        self.steps = counter("engine_steps", "Steps of the engine.")
        self._head_outputs = counter("head_outputs", "Outputs whose logits were screened.")
        self._head_rows_rescored = counter(
            "head_rows_rescored", "Rows of the head that were computed exactly for them."
        )
        self._head_counts = (0, 0)
        self._time_to_first_token = histogram(
            "time_to_first_token_seconds", "From submission to the first token.", _LONG
        )
        self._time_per_output_token = histogram(
            "time_per_output_token_seconds", "Mean of an answer, after its first token.", _SHORT
        )
        self._queue_time = histogram("request_queue_time_seconds", "Wait for a place.", _LONG)
        self._latency = histogram("e2e_request_latency_seconds", "Whole answers.", _LONG)
        self._model_name = model_name
        self._finished = Counter(
            PREFIX + "request_success",
            "Answers by how they ended: stop, length, cancelled, failed.",
            labelnames=("model_name", "finished_reason"),
            registry=registry,
        )

    def observe(self, finished: Finished) -> None:
        """Counts an answer that ended, however it did."""
        self._finished.labels(self._model_name, finished.reason).inc()
        if finished.reason not in ("stop", "length"):
            return
        clock = finished.clock
        self.prompt_tokens.inc(finished.prompt_tokens)
        self._queue_time.observe(clock.started - clock.submitted)
        self._time_to_first_token.observe(clock.first_token - clock.submitted)
        self._latency.observe(clock.finished - clock.submitted)
        if finished.completion_tokens > 1:
            took_s = clock.finished - clock.first_token
            self._time_per_output_token.observe(took_s / (finished.completion_tokens - 1))

    def count_head(self, counts: tuple[int, int]) -> None:
        """Takes over the model's own counts, see `ServedModel.head_counts`."""
        before, self._head_counts = self._head_counts, counts
        self._head_outputs.inc(counts[0] - before[0])
        self._head_rows_rescored.inc(counts[1] - before[1])

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self._registry)
