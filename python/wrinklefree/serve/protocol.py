"""Request bodies of the OpenAI API: what is understood, and one clear refusal for all else.

Every model forbids unknown fields, so nothing is accepted and then ignored; null means absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from wrinklefree.errors import nearest
from wrinklefree.serve.errors import ApiError, bad_request

# Fields of OpenAI's API that this server knows and refuses by name.
UNSUPPORTED = frozenset(
    [
        "audio",
        "best_of",
        "chat_template",
        "chat_template_kwargs",
        "function_call",
        "functions",
        "metadata",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "suffix",
        "tool_choice",
        "tools",
        "user",
        "verbosity",
        "web_search_options",
    ]
)

MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_CHOICES = 16
MAX_REGEX_CHARS = 4096
INT32_MAX = 2**31 - 1

# What a field that takes several types may hold; pydantic would report every branch of the union.
EXPECTED = {
    "prompt": "a string, a list of strings, a list of token ids or a list of such lists",
    "stop": f"a string or a list of up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
    "tokens": "a list of token ids",
    "content": "a string or a list of parts {'type': 'text', 'text': ...}",
    "logit_bias": "an object that maps token ids to numbers from -100 to 100",
}

TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenCount = Annotated[int, Field(ge=1, le=INT32_MAX)]


class _Body(BaseModel):
    # strict: "1" is no number and true is no integer.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


class StreamOptions(_Body):
    include_usage: bool = False


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class TextFormat(_Body):
    type: Literal["text"]


class JsonObjectFormat(_Body):
    type: Literal["json_object"]


class JsonSchema(_Body):
    """`strict` is accepted: the schema is always followed."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool = True


class JsonSchemaFormat(_Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(_Body):
    """An extension of this server: the whole answer matches."""

    type: Literal["regex"]
    regex: Annotated[str, Field(min_length=1, max_length=MAX_REGEX_CHARS)]


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat, Field(discriminator="type")
]


class GenerationRequest(_Body):
    """What /v1/chat/completions and /v1/completions share."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = []
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=INT32_MAX)] = 0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] = {}
    response_format: ResponseFormat = TextFormat(type="text")
    max_tokens: TokenCount | None = None

    @field_validator("logit_bias")
    @classmethod
    def _keys_are_token_ids(cls, bias: dict[str, float]) -> dict[str, float]:
        if not all(key.isascii() and key.isdigit() and len(key) <= 10 for key in bias):
            raise ValueError("keys must be token ids")
        return bias

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream=true")
        return self

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def includes_usage(self) -> bool:
        """True if a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Most likely tokens to report per position; 0 is the chosen one only, None is nothing."""
        raise NotImplementedError

    @property
    def echoes(self) -> bool:
        """True if the prompt is part of the answer, with the log-probabilities of its tokens."""
        return False


class ChatRequest(GenerationRequest):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them")
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


class CompletionRequest(GenerationRequest):
    prompt: str | TokenIds | Annotated[list[str] | list[TokenIds], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    max_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None

    @model_validator(mode="after")
    def _echo_fits(self) -> CompletionRequest:
        if self.echo and self.stream:
            raise ValueError("echo needs stream=false")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo=true")
        return self

    @model_validator(mode="after")
    def _choices_are_few(self) -> CompletionRequest:
        if len(self.prompts) * self.n > MAX_CHOICES:
            raise ValueError(f"prompt: prompts times n must be at most {MAX_CHOICES}")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts of the request, one or many, each as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # a list of ids is one prompt
        return self.prompt

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def echoes(self) -> bool:
        return self.echo


class TokenizeRequest(_Body):
    """Of /tokenize, as vLLM has it."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class DetokenizeRequest(_Body):
    """Of /detokenize, as vLLM has it."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1 << 20)]


Request = TypeVar("Request", bound=BaseModel)


def parse(kind: type[Request], body: bytes) -> Request:
    """Reads and checks a request body.

    Raises ApiError 400 that names the first wrong field and never repeats a value.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, known=list(kind.model_fields)) from None


def _refusal(error: ValidationError, *, known: list[str]) -> ApiError:
    first = error.errors(include_input=False, include_url=False)[0]
    kind, place = first["type"], list(first["loc"])
    if kind == "json_invalid":
        return bad_request("the body is not valid JSON in UTF-8", code="invalid_json")
    if kind == "extra_forbidden":
        return _unknown_field(str(place[-1]), _field_path(place[:-1]), known)
    path = _field_path(place)
    if kind == "missing":
        return bad_request(f"{path or place[-1]}: required", param=path)
    expected = EXPECTED.get(path.rpartition(".")[2])
    reason = f"must be {expected}" if expected else first["msg"].removeprefix("Value error, ")
    return bad_request(f"{path}: {reason}" if path else reason, param=path or None)


def _unknown_field(name: str, parent: str, known: list[str]) -> ApiError:
    name = name[:40]  # the client chose this text: keep it short, and printable below
    if parent:
        return bad_request(f"{parent}: unknown field {name!a}", param=f"{parent}.{name}")
    if name in UNSUPPORTED:
        return bad_request(
            f"{name!r} is not supported by this server; leave it out",
            param=name,
            code="unsupported_parameter",
        )
    hint = nearest(name, known)
    return bad_request(f"unknown field {name!a}{hint}", param=name, code="unknown_parameter")


def _field_path(place: list[int | str]) -> str:
    """Dotted name of a field; stops at the first part that is a union branch or the client's."""
    parts: list[str] = []
    for part in place:
        if isinstance(part, str) and not part.isidentifier():
            break
        parts.append(str(part))
        if part in EXPECTED:
            break
    return ".".join(parts)
