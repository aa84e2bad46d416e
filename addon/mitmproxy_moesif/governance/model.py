"""Moesif's remote configuration and rules as it sends them, checked for shape and made immutable.

Two answers of Moesif's collector API are read here: `GET /v1/config` (`parse_config`) and `GET /v1/rules`
(`parse_rules`). Either the whole answer has the expected shape, or it is refused with one `GovernanceError` and the
caller keeps what it had: garbage, another JSON type, a wrong type in a named field, more than `MAX_DOCUMENT_BYTES`.
Fields that we do not know are ignored, and `null` counts as "not given". Whether a well-shaped rule can be *applied*
(its status, its patterns) is decided later, in `rules.py`, so that one unusable rule does not cost the others.

Each user's, company's and rule's part is checked by itself and the first fault ends it: pydantic collects every fault
of one call, which for ten megabytes of wrong types is a gigabyte of errors, built while the interpreter's lock is held.
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
    """A configuration, a rule list or a rule file that is refused; the message is one line.

    `location` is the path of keys and indices to the fault (empty where it is the document as a whole)."""

    def __init__(self, message: str, location: Location = ()) -> None:
        super().__init__(f"{_dotted(location)}: {message}" if location else message)
        self.message = message
        self.location = location


def as_text(value: object) -> str | None:
    """A JSON value as the text that patterns and tags see: a string as it is, any other value as compact JSON.

    None for null, and for what cannot be written as JSON (nested too deeply, or no JSON value at all). Members whose
    names repeat are all in it."""
    if isinstance(value, str):
        return value
    if value is None:
        return None
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
    except (TypeError, ValueError, RecursionError):
        pass  # integers over 64 bits, lone surrogates and repeated members are beyond orjson only
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None


def one_line(text: str, limit: int = 500) -> str:
    """Text from outside as a log can show it: printable, on one line, not longer than `limit` and an ellipsis."""
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
    """Conditions that must all hold for `sample_rate` (0..100) to count."""

    sample_rate: Rate | None = None


class CohortEntry(_Model):
    """One rule that a user or a company is in the cohort of, with the values of its merge tags.

    `rules` is, in spite of its name, the id of one rule."""

    rules: str
    values: Annotated[dict[str, Any], _null_means({})] = {}


class Variable(_Model):
    """A merge tag of a rule: `name` is what stands between the braces."""

    name: str
    path: str | None = None


class Rule(_Model):
    """A governance rule as received. `response` is kept as it came and judged in `rules.py`."""

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
    """The answer of `GET /v1/config`. Rates are per cent, 0..100; ids are the keys of the mappings."""

    sample_rate: float = 100.0
    user_sample_rate: Mapping[str, float] = field(default_factory=dict)
    company_sample_rate: Mapping[str, float] = field(default_factory=dict)
    regex_config: tuple[SamplingSet, ...] = ()
    user_rules: Cohorts = field(default_factory=dict)
    company_rules: Cohorts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order in which they came, and the cohorts that came with them (only local files have those).

    `source` says where they came from, for messages: "Moesif" or a file's name."""

    rules: tuple[Rule, ...] = ()
    user_rules: Cohorts = field(default_factory=dict)
    company_rules: Cohorts = field(default_factory=dict)
    source: str = "Moesif"


_RATE: TypeAdapter[float] = TypeAdapter(Rate)
_SAMPLING: TypeAdapter[tuple[SamplingSet, ...]] = TypeAdapter(Listed[SamplingSet])
_ENTRIES: TypeAdapter[tuple[CohortEntry, ...]] = TypeAdapter(Listed[CohortEntry])
_RULE: TypeAdapter[Rule] = TypeAdapter(Rule)


def parse_config(raw: bytes) -> RemoteConfig:
    """The configuration in `raw`, the body of `GET /v1/config`. Raises GovernanceError where it has another shape."""
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
    """The rules in `raw`, the body of `GET /v1/rules`. Raises GovernanceError where it has another shape."""
    return RuleSet(read_rules(_json(raw)))


def read_rules(document: object, location: Location = ()) -> tuple[Rule, ...]:
    """Rules from a JSON list that has been parsed; `location` is where it stands in the document."""
    if not isinstance(document, list):
        raise GovernanceError("must be a list of rules", location)
    return tuple(_checked(_RULE, rule, (*location, number)) for number, rule in enumerate(document))


def read_cohorts(document: Mapping[str, object], key: str) -> Cohorts:
    """The mapping `document[key]` of ids to the rules that each is in the cohort of."""
    return _checked_map(_ENTRIES, document, key)


def check_size(raw: bytes | str) -> None:
    """Refuse a document over the bound before anything reads it."""
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
    """pydantic's words in ours: it speaks of Python's types, the reader writes JSON or YAML."""
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
    """`rules[2].regex_config[0].conditions`, cut to a length that fits on a line of a log."""

    def steps() -> Iterator[str]:
        for step in location:
            yield f"[{step}]" if isinstance(step, int) else f".{one_line(step, 100)}"

    return "".join(steps()).removeprefix(".")
