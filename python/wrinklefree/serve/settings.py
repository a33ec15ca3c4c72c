"""What the operator chooses: limits, keys and addresses of one server."""

from __future__ import annotations

from dataclasses import dataclass

KV_PAGE = 32  # tokens for which the engine takes memory at once: kKvPage in csrc/core/layout/kv.h
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Values of one server; the defaults suit one person on one machine."""

    model_name: str
    host: str = "127.0.0.1"
    api_keys: tuple[str, ...] = ()
    parallel: int = 4
    """Generations that share each engine step; every one holds a KV cache."""
    kv_tokens: int = 1 << 62
    """Tokens, of all running answers together, whose keys and values fit in memory."""
    max_queue: int = 64
    """Generations that may wait for a slot; more are refused with 429."""
    prefix_cache_bytes: int = 256 << 20
    """Keys and values kept for prompts that begin the same; 0 keeps none."""
    max_body_bytes: int = 2 << 20
    head_timeout_s: float = 30.0
    """A client gets this long to ask for something, and for the lines of its request."""
    body_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    """A stream that is silent for so long sends a comment; proxies often hang up after 60 s."""
    drain_timeout_s: float = 30.0
    """After SIGTERM, running requests get this long to finish."""

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return self.host in LOOPBACK_HOSTS

    @property
    def capacity(self) -> int:
        """Generations that may be in the server at once, running and waiting."""
        return self.parallel + self.max_queue

    @property
    def kv_share(self) -> int:
        """Tokens of one answer where `parallel` of them share the memory evenly."""
        return self.kv_tokens // self.parallel // KV_PAGE * KV_PAGE

    def default_max_tokens(self, num_prompt_tokens: int) -> int:
        """Of an answer whose request has no limit: what its share leaves, at least a quarter of
        the share, as far as the memory has that much."""
        fair = max(self.kv_share - num_prompt_tokens, self.kv_share // 4)
        return max(1, min(fair, self.kv_tokens - num_prompt_tokens))


def whole_pages(num_tokens: int) -> int:
    """So many tokens take the memory of how many?"""
    return -(-num_tokens // KV_PAGE) * KV_PAGE
