"""Moesif's remote configuration and rules as received, validated and immutable.

Parses two responses of Moesif's collector API: `GET /v1/config` (`parse_config`) and `GET /v1/rules` (`parse_rules`).
A response that is not JSON, is of another JSON type, has a known field of a wrong type, or has more than
`MAX_DOCUMENT_BYTES`, is refused as a whole with one `GovernanceError`, and the caller keeps what it had. Unknown fields
are ignored, and `null` means "not given". Whether a well-formed rule can be *applied* (its status, its patterns) is
decided later, in `rules.py`, so that one unusable rule does not affect the others.

Each user's, company's and rule's part is validated separately, up to the first error: pydantic collects all errors of
one call, which for ten megabytes of wrong types is a gigabyte of errors, built while holding the interpreter's lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    TypeAdapter,
    ValidationError,
)

MAX_DOCUMENT_BYTES = 10_000_000

type Location = tuple[int | str, ...]


class GovernanceError(ValueError):
    """A configuration, rule list or rule file is refused; the message is one line.

    `location`: keys and indices from the root to the error; empty if it concerns the document as a whole."""

    def __init__(self, message: str, location: Location = ()) -> None:
        super().__init__(f"{_dotted(location)}: {message}" if location else message)
        self.message = message
        self.location = location


def as_text(value: object) -> str | None:
    """A JSON value as the text for patterns and tags: a string unchanged, any other value as compact JSON.

    None for null, and for values that cannot be written as JSON (too deeply nested, or not JSON at all). The text has
    all members with the same name."""
    if isinstance(value, str):
        return value
    if value is None:
        return None
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
    except (TypeError, ValueError, RecursionError):
        pass  # orjson supports no integers over 64 bits, lone surrogates or repeated members
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None


def one_line(text: str, limit: int = 500) -> str:
    """Untrusted text made safe for a log: printable, one line, cut to `limit` characters plus an ellipsis."""
    shown = text if len(text) <= limit else f"{text[:limit]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _null_means(default: object) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


# Six decimals keep weights finite.
_SIX = AfterValidator(lambda rate: round(rate, 6))
type Rate = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=100), _SIX]
type Flag = Annotated[StrictBool, _null_means(False)]
type Listed[T] = Annotated[tuple[T, ...], FailFast(), _null_means(())]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Condition(_Model):
    """`value`, a regular expression, is searched in the field named by `path` (`request.verb`, ...)."""

    path: str
    value: str


class ConditionSet(_Model):
    """Conditions that must all hold."""

    conditions: Annotated[tuple[Condition, ...], FailFast()]


class SamplingSet(ConditionSet):
    """Conditions that must all hold for `sample_rate` (0..100) to apply."""

    sample_rate: Rate | None = None


class CohortEntry(_Model):
    """Membership of a user or company in the cohort of one rule, with the values of its merge tags.

    `rules` is the id of one rule, in spite of its name."""

    rules: str
    values: Annotated[dict[str, Any], _null_means({})] = {}


class Variable(_Model):
    """A merge tag of a rule: `name` is the text between the braces."""

    name: str
    path: str | None = None


class Rule(_Model):
    """A governance rule as received. `response` is kept unchanged and checked in `rules.py`."""

    id: Annotated[str, Field(alias="_id", min_length=1)]
    type: str
    name: Annotated[str, _null_means("")] = ""
    block: Flag = False
    applied_to: Annotated[str, _null_means("matching")] = "matching"
    applied_to_unidentified: Flag = False
    regex_config: Listed[ConditionSet] = ()
    variables: Listed[Variable] = ()
    response: Any = None


type Cohorts = Mapping[str, tuple[CohortEntry, ...]]


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """The response of `GET /v1/config`. Rates are percentages, 0..100; the keys of the mappings are ids."""

    sample_rate: float = 100.0
    user_sample_rate: Mapping[str, float] = field(default_factory=dict)
    company_sample_rate: Mapping[str, float] = field(default_factory=dict)
    regex_config: tuple[SamplingSet, ...] = ()
    user_rules: Cohorts = field(default_factory=dict)
    company_rules: Cohorts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order received, and the cohorts that came with them (only local files have these).

    `source` is used in messages: "Moesif" or a file's name."""

    rules: tuple[Rule, ...] = ()
    user_rules: Cohorts = field(default_factory=dict)
    company_rules: Cohorts = field(default_factory=dict)
    source: str = "Moesif"


_RATE: TypeAdapter[float] = TypeAdapter(Rate)
_SAMPLING: TypeAdapter[tuple[SamplingSet, ...]] = TypeAdapter(Listed[SamplingSet])
_ENTRIES: TypeAdapter[tuple[CohortEntry, ...]] = TypeAdapter(Listed[CohortEntry])
_RULE: TypeAdapter[Rule] = TypeAdapter(Rule)


def parse_config(raw: bytes) -> RemoteConfig:
    """Parse `raw`, the body of `GET /v1/config`. Raises `GovernanceError` if it has another shape."""
    document = _json(raw)
    if not isinstance(document, dict):
        raise GovernanceError("must be a JSON object")
    rate = document.get("sample_rate")
    return RemoteConfig(
        sample_rate=100.0 if rate is None else _checked(_RATE, rate, ("sample_rate",)),
        user_sample_rate=_checked_map(_RATE, document, "user_sample_rate"),
        company_sample_rate=_checked_map(_RATE, document, "company_sample_rate"),
        regex_config=_checked(_SAMPLING, document.get("regex_config"), ("regex_config",)),
        user_rules=read_cohorts(document, "user_rules"),
        company_rules=read_cohorts(document, "company_rules"),
    )


def parse_rules(raw: bytes) -> RuleSet:
    """Parse `raw`, the body of `GET /v1/rules`. Raises `GovernanceError` if it has another shape."""
    return RuleSet(read_rules(_json(raw)))


def read_rules(document: object, location: Location = ()) -> tuple[Rule, ...]:
    """Rules from a parsed JSON list; `location` is its place in the document. Raises `GovernanceError`."""
    if not isinstance(document, list):
        raise GovernanceError("must be a list of rules", location)
    return tuple(_checked(_RULE, rule, (*location, number)) for number, rule in enumerate(document))


def read_cohorts(document: Mapping[str, object], key: str) -> Cohorts:
    """The mapping `document[key]` of ids to their cohort entries. Raises `GovernanceError`."""
    return _checked_map(_ENTRIES, document, key)


def check_size(raw: bytes | str) -> None:
    """Refuse an oversized document before it is parsed. Raises `GovernanceError`."""
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise GovernanceError(f"is larger than {MAX_DOCUMENT_BYTES} bytes")


def _json(raw: bytes) -> object:
    check_size(raw)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise GovernanceError(f"is not JSON: {e.msg} at position {e.pos}") from e


def _checked_map[T](adapter: TypeAdapter[T], document: Mapping[str, object], key: str) -> dict[str, T]:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise GovernanceError("must be an object", (key,))
    return {name: _checked(adapter, value, (key, name)) for name, value in found.items()}


def _checked[T](adapter: TypeAdapter[T], value: object, location: Location) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as e:
        fault = e.errors(include_url=False, include_context=False, include_input=False)[0]
        raise GovernanceError(_sentence(fault["type"], fault["msg"]), (*location, *fault["loc"])) from None


def _sentence(kind: str, message: str) -> str:
    """pydantic's message reworded: it names Python's types, but users write JSON or YAML."""
    known = {
        "missing": "is missing",
        "tuple_type": "must be a list",
        "dict_type": "must be an object",
        "model_type": "must be an object",
        "string_type": "must be text",
        "string_too_short": "must not be empty",
        "float_type": "must be a number",
        "bool_type": "must be true or false",
    }
    return known.get(kind, message.replace("Input should be", "must be"))


def _dotted(location: Location) -> str:
    """A location such as `rules[2].regex_config[0].conditions`, with each step cut to fit on a log line."""

    def steps() -> Iterator[str]:
        for step in location:
            yield f"[{step}]" if isinstance(step, int) else f".{one_line(step, 100)}"

    return "".join(steps()).removeprefix(".")
