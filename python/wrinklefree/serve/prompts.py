"""From a request body to token ids, sampling and stop rules; refuses what cannot run, early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wrinklefree.engine import SamplingParams
from wrinklefree.errors import WrinklefreeError
from wrinklefree.serve.errors import bad_request
from wrinklefree.serve.generation import Event, Generation
from wrinklefree.serve.grammar import Grammar, Grammars
from wrinklefree.serve.job import MakeGeneration
from wrinklefree.serve.model import ServedModel, Tokenizer
from wrinklefree.serve.protocol import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    TextFormat,
)
from wrinklefree.serve.settings import Settings
from wrinklefree.serve.streaming import TextStream

# Fields of a request that the model's files may have a default for.
DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def chat_prompt(model: ServedModel, request: ChatRequest) -> list[int]:
    """Token ids of the templated messages; raises ApiError 400 if the template refuses them."""
    messages = [message.for_template() for message in request.messages]
    tools = [tool.for_template() for tool in request.usable_tools]
    try:
        ids = model.chat_ids(messages, tools)
    except WrinklefreeError as error:
        raise bad_request(f"messages: {error}", param="messages", code="template_error") from None
    return _fitting(ids, model, param="messages")


def completion_prompt(
    model: ServedModel, prompt: str | list[int], *, answers: bool = True
) -> list[int]:
    """Token ids of one prompt; text gets the model's start token, ids are taken as they are.

    With `answers` the context must hold one token more.
    """
    if isinstance(prompt, str):
        ids = model.tokenizer.encode(prompt)
        if not ids and model.tokenizer.bos_id is not None:
            ids = [model.tokenizer.bos_id]
        return _fitting(ids, model, param="prompt", answers=answers)
    check_ids(prompt, model.tokenizer, param="prompt")
    return _fitting(prompt, model, param="prompt", answers=answers)


def check_ids(ids: Sequence[int], tokenizer: Tokenizer, *, param: str) -> None:
    """Raises ApiError 400 for an id that the vocabulary does not have."""
    if ids and max(ids) >= tokenizer.vocab_size:
        raise bad_request(f"{param}: token ids must be below {tokenizer.vocab_size}", param=param)


def _fitting(ids: list[int], model: ServedModel, *, param: str, answers: bool = True) -> list[int]:
    if not ids:
        raise bad_request(f"{param}: there are no tokens in it", param=param)
    limit = model.context_length
    if len(ids) + answers > limit:
        reserve = " tokens, of which one is needed for the answer" if answers else " tokens"
        raise bad_request(
            f"{param}: {len(ids)} tokens, but this model's maximum context length is {limit}"
            f"{reserve}",
            param=param,
            code="context_length_exceeded",
        )
    return ids


@dataclass(frozen=True, slots=True)
class StopRule:
    """Texts that end a choice, and token ids that do."""

    texts: tuple[str, ...]
    ids: frozenset[int]


def stop_rule(tokenizer: Tokenizer, stops: Sequence[str]) -> StopRule:
    """Stop strings of a request, with the model's own end tokens.

    A special token never appears in the text, so one named as a stop is matched by its id; a stop
    that mixes special tokens with text could never match and is refused.
    """
    special = tokenizer.special_tokens
    texts, ids = [], set(tokenizer.eos_ids)
    for stop in stops:
        if stop in special:
            ids.add(special[stop])
        elif not any(spelling in stop for spelling in special):
            texts.append(stop)
        else:
            raise bad_request("stop: a special token must be a stop of its own", param="stop")
    return StopRule(tuple(texts), frozenset(ids))


def sampling_of(request: GenerationRequest, model: ServedModel, *, choice: int) -> SamplingParams:
    """Sampling of the choice with this number; its seed is the request's plus the number."""
    vocab_size = model.tokenizer.vocab_size
    bias = {int(token): value for token, value in request.logit_bias.items()}
    if bias and max(bias) >= vocab_size:
        raise bad_request(f"logit_bias: token ids must be below {vocab_size}", param="logit_bias")
    asked = {name: getattr(request, name) for name in DEFAULTED}
    given = {name: value for name, value in asked.items() if value is not None}
    seed = None if request.seed == -1 else request.seed
    return SamplingParams(
        **{**model.default_sampling, **given},
        seed=None if seed is None else (seed + choice) % 2**64,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=tuple(bias.items()),
        logprobs=request.alternatives,
    )


def generation_makers(
    model: ServedModel,
    settings: Settings,
    request: GenerationRequest,
    prompts: Sequence[list[int]],
    grammar: Grammar | None = None,
) -> list[MakeGeneration]:
    """One maker per choice, in OpenAI's order: all choices of the first prompt come first. Each
    walks a copy of the grammar."""
    rule = stop_rule(model.tokenizer, request.stops)

    def maker(prompt: list[int], choice: int) -> MakeGeneration:
        room, limit = model.context_length - len(prompt), request.token_limit
        if limit is None:
            limit = settings.default_max_tokens(len(prompt))
        sampling = sampling_of(request, model, choice=choice)

        def make(emit: Callable[[Event], None]) -> Generation:
            return Generation(
                prompt=prompt,
                sampling=sampling,
                max_tokens=min(limit, room),
                end_ids=rule.ids,
                text=TextStream(model.tokenizer, rule.texts),
                emit=emit,
                scores_prompt=request.echoes,
                grammar=grammar.copy() if grammar is not None else None,
            )

        return make

    return [maker(prompt, choice) for prompt in prompts for choice in range(request.n)]


def has_form(request: GenerationRequest) -> bool:
    """Whether the answer must keep to a grammar."""
    is_call = isinstance(request, ChatRequest) and bool(request.required_tools)
    return is_call or not isinstance(request.response_format, TextFormat)


def grammar_of(grammars: Grammars, request: GenerationRequest) -> Grammar | None:
    """What the answer must keep to, if anything; blocks for as long as compiling takes."""
    if isinstance(request, ChatRequest) and request.required_tools:
        return grammars.of_calls(request.required_tools, several=request.parallel_tool_calls)
    return grammars.of(request.response_format)


def prompts_of(model: ServedModel, request: ChatRequest | CompletionRequest) -> list[list[int]]:
    """Token ids of every prompt of a request; blocks for as long as tokenizing takes."""
    if isinstance(request, ChatRequest):
        return [chat_prompt(model, request)]
    answers = request.max_tokens != 0
    return [completion_prompt(model, prompt, answers=answers) for prompt in request.prompts]
