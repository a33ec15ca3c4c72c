"""Keys and values of running answers: how many tokens' fit in memory, decided at the start.

Memory grows while an answer does, so that a server which takes what it gets dies long after. Each
answer is counted as long as it may become; one that does not fit beside the others waits.
"""

from __future__ import annotations

from dataclasses import replace

from wrinklefree.errors import WrinklefreeError
from wrinklefree.serve.settings import KV_PAGE, Settings, whole_pages

SHARE = 0.8  # of the free memory; the rest is for activations, requests and other programs
MIN_TOKENS = 512  # that an answer should have room for, its prompt included


def fitting(
    settings: Settings,
    *,
    context: int,
    bytes_per_token: int,
    free_bytes: int | None,
    wanted_bytes: int | None = None,
) -> tuple[Settings, list[str]]:
    """`settings` with `kv_tokens`, and lines about what is less than could be asked for.

    `wanted_bytes` are for running answers, as the operator says; without them it is a share of the
    free memory, of which the prefix cache gets up to a quarter. Less than MIN_TOKENS for each
    lowers `parallel`. Raises WrinklefreeError if there is no room for one answer.
    """
    notes = []
    if wanted_bytes is None:
        if free_bytes is None:
            return settings, []
        shared = int(SHARE * free_bytes)
        prefix_bytes = min(settings.prefix_cache_bytes, shared // 4)
        if prefix_bytes < settings.prefix_cache_bytes:
            notes.append(f"little memory is free: {_mib(prefix_bytes)} of prefix cache")
        settings = replace(settings, prefix_cache_bytes=prefix_bytes)
        wanted_bytes = shared - prefix_bytes
    num_tokens = wanted_bytes // bytes_per_token // KV_PAGE * KV_PAGE
    least = whole_pages(min(context, MIN_TOKENS))
    room = f"{_mib(wanted_bytes)} for keys and values hold {num_tokens} tokens"
    if num_tokens < least:
        raise WrinklefreeError(
            f"{room}, an answer needs {least}: free memory, or lower --context, or choose another "
            "--kv-cache"
        )
    asked = settings.parallel
    parallel = min(asked, num_tokens // least)
    settings = replace(settings, parallel=parallel, kv_tokens=num_tokens)
    if num_tokens < asked * whole_pages(context):
        count = "1 answer" if parallel == 1 else f"{parallel} answers"
        lowered = "" if parallel == asked else f", not {asked},"
        notes.append(
            f"{room}: {count}{lowered} of {settings.kv_share} tokens at a time, or fewer longer "
            "ones"
        )
    return settings, notes


def _mib(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB"
