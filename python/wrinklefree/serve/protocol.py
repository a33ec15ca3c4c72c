"""Request bodies of the OpenAI API: what is understood, and one clear refusal for all else.

Every model forbids unknown fields, so nothing that would change an answer is accepted and then
ignored; null means absent.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

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
        "prediction",
        "reasoning_effort",
        "suffix",
        "verbosity",
        "web_search_options",
    ]
)

MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_CHOICES = 8
MAX_PROMPTS = 16
MAX_REGEX_CHARS = 4096
MAX_TOOLS = 128
MAX_FIELDS = 256
MAX_BIASES = 1024
INT32_MAX = 2**31 - 1

# What a field that takes several types may hold; pydantic would report every branch of the union.
EXPECTED = {
    "prompt": "a string, a list of strings, a list of token ids or a list of such lists",
    "stop": f"a string or a list of up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
    "tokens": "a list of token ids",
    "content": "a string or a list of parts {'type': 'text', 'text': ...}",
    "tool_choice": "'none', 'auto', 'required' or {'type': 'function', 'function': {'name': ...}}",
    "logit_bias": "an object that maps token ids to numbers from -100 to 100",
}

# The engine's floats have 32 bits, in which 1e-50 is 0 and 0.99999999 is 1.
Share = Annotated[float, Field(gt=0, le=1), AfterValidator(lambda p: max(p, 1e-30))]
MinShare = Annotated[float, Field(ge=0, lt=1), AfterValidator(lambda p: min(p, 1 - 2**-24))]
TopK = Annotated[int, Field(ge=-1, le=INT32_MAX), AfterValidator(lambda k: max(k, 0))]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
# fail_fast: a list of a hundred thousand wrong items would have as many errors, which take seconds.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenCount = Annotated[int, Field(ge=1, le=INT32_MAX)]


def _few_biases(biases: Any) -> Any:
    """Before each of them is looked at."""
    if isinstance(biases, dict) and len(biases) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens")
    return biases


class _Body(BaseModel):
    # strict: "1" is no number and true is no integer.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if len(data) > MAX_FIELDS:  # each unknown one would be an error of its own
                raise ValueError(f"an object of the request has more than {MAX_FIELDS} fields")
            return {name: value for name, value in data.items() if value is not None}
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, field in schema["properties"].items():
            if name not in schema.get("required", ()) and {"type": "null"} not in field.get(
                "anyOf", ()
            ):
                default = {"default": field.pop("default")} if "default" in field else {}
                schema["properties"][name] = {"anyOf": [field, {"type": "null"}], **default}
        return schema


class StreamOptions(_Body):
    include_usage: bool = False


class TextPart(_Body):
    type: Literal["text"]
    text: str


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]


class FunctionCall(_Body):
    name: Name
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, arguments: str) -> str:
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ValueError("must be the JSON text of an object")
        return arguments


class PastToolCall(_Body):
    """A call in an earlier answer."""

    id: CallId
    type: Literal["function"]
    function: FunctionCall


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] = ""
    tool_calls: Annotated[list[PastToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)] = []
    tool_call_id: CallId | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _fields_fit_the_role(self) -> Message:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise ValueError("content: required")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls: only in messages of the role assistant")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id: in messages of the role tool, and only there")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it: arguments of calls as objects."""
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": self.text,
        }
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": json.loads(call.function.arguments),
                    },
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            message["name"] = self.name
        return message


class Function(_Body):
    """`strict` is accepted; a call that is required always follows the schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    strict: bool = False


class Tool(_Body):
    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        function = self.function.model_dump(exclude={"strict"}, exclude_none=True)
        return {"type": "function", "function": function}


class NamedFunction(_Body):
    name: Name


class NamedTool(_Body):
    type: Literal["function"]
    function: NamedFunction


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
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] = []
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: MinShare | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[
        dict[TokenKey, Bias], Field(max_length=MAX_BIASES), BeforeValidator(_few_biases)
    ] = {}
    response_format: ResponseFormat = TextFormat(type="text")
    max_tokens: TokenCount | None = None
    user: str | None = None  # for the client's own books, as `Bookkeeping`

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


class Bookkeeping(_Body):
    """What clients of OpenAI's service send along and no answer depends on: read and dropped. The
    values that would ask this server for something are refused."""

    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    modalities: list[Literal["text"]] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None


class ChatRequest(GenerationRequest, Bookkeeping):
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    max_completion_tokens: TokenCount | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("tools: two of them have one name")
        if "tool_choice" in self.model_fields_set and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names no tool of the request")
        if self.tools and self.logprobs:
            raise ValueError("logprobs: not together with tools")
        if self.required_tools and not isinstance(self.response_format, TextFormat):
            raise ValueError("response_format: not together with a required tool")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; send one of them")
        return self

    @property
    def usable_tools(self) -> list[Tool]:
        return [] if self.tool_choice == "none" else self.tools

    @property
    def required_tools(self) -> list[Tool]:
        """Of which the answer must call one; empty if it may also be text."""
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            return [tool for tool in self.tools if tool.function.name == name]
        return self.tools if self.tool_choice == "required" else []

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


class CompletionRequest(GenerationRequest):
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    )
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
        if len(self.prompts) * self.n > MAX_PROMPTS:
            raise ValueError(f"prompt: prompts times n must be at most {MAX_PROMPTS}")
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
    tokens: Annotated[list[TokenId], Field(max_length=1 << 20, fail_fast=True)]


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
    is_unsupported = kind == "literal_error" and place[0] in Bookkeeping.model_fields
    return bad_request(
        f"{path}: {reason}" if path else reason,
        param=path or None,
        code="unsupported_parameter" if is_unsupported else None,
    )


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
