"""Response bodies in OpenAI's shape.

They are written with `exclude_unset`: a field set to None is sent as null, one left out is absent,
because OpenAI's clients tell the two apart (`usage: null` in the chunks of a stream).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class PromptDetails(BaseModel):
    """`cached_tokens` were there from an earlier prompt, of all choices together."""

    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Timings(BaseModel):
    """Where the time went; an extension of this server."""

    queue_s: float
    prompt_s: float
    generation_s: float
    time_to_first_token_s: float
    prompt_tokens_per_s: float | None
    completion_tokens_per_s: float | None


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class PlacedLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    content: list[PlacedLogprob]


class TextLogprobs(BaseModel):
    """The first token of an echoed prompt has null for both kinds of log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CalledFunction(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ToolCallDelta(ToolCall):
    """A call comes whole, in one chunk."""

    index: int


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] = []


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] = []


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class TextChoice(BaseModel):
    """A choice of /v1/completions, whole or in a stream."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class _Body(BaseModel):
    id: str
    created: int
    model: str
    usage: Usage | None = None
    timings: Timings | None = None


class ChatCompletion(_Body):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class ChatChunk(_Body):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]


class TextCompletion(_Body):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelMeta(BaseModel):
    """What the engine knows of the model; bits are means over all weights.

    `format` is where the weights come from with the types of the projections: "gguf TQ2_0".
    """

    architecture: str
    parameters: int
    ternary_parameters: int
    bits_per_weight: float
    weight_bytes: int
    vocab_size: int
    format: str
    isa: str
    threads: int


class Model(BaseModel):
    """An entry of /v1/models; the fields after `owned_by` are extensions of this server.

    `default_sampling` is what the model's own files say where a request says nothing.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    default_sampling: dict[str, int | float]
    meta: ModelMeta


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok", "unavailable"]


class Tokenized(BaseModel):
    """Of /tokenize, as vLLM has it; `max_model_len` is the context."""

    count: int
    max_model_len: int
    tokens: list[int]


class Detokenized(BaseModel):
    """Of /detokenize, as vLLM has it."""

    prompt: str
