"""The building blocks of a parameter table: types, properties of a field, and errors about its values.

A table is a pydantic model. Everything about a parameter is on its field: type, bounds, default and help as in any
model; also whether it is secret (its type is `SecretStr`), or has a `Property`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from mitmproxy_moesif.config.files import expanded
from mitmproxy_moesif.config.text import HIDDEN, did_you_mean, quoted

HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token of RFC 9110."""

UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters not allowed in a name or value: control characters, and bytes that are not UTF-8."""


class Property(Enum):
    """A property of a parameter, given as `Annotated[type, Property.X]`."""

    START_ONLY = "takes effect at the start only: a live change is refused"
    PROXY = "is the whole proxy's, as all are that take effect at the start only: no entry of Kong's has its own"
    LOCAL = "belongs to this machine: no client of the Admin API may change it"
    RECEIVER = "names where events go that must not be lost"
    FILE = "names a file or folder: `~` is expanded, and no client of the Admin API may change it"


@dataclass(frozen=True)
class Needs:
    """Given as `Annotated[type, Needs("x")]`: the parameter has no effect without the parameter `x`."""

    name: str


def without_effect(given: BaseModel) -> str | None:
    """Parameters that were given but have no effect, in one line; None if there are none."""
    idle: dict[str, list[str]] = {}
    for name, field in type(given).model_fields.items():
        needed = next((item.name for item in field.metadata if isinstance(item, Needs)), None)
        if needed is None or name not in given.model_fields_set or getattr(given, name) == field.default:
            continue
        if not getattr(given, needed):
            idle.setdefault(needed, []).append(name)
    lines = [f"no effect without {needed}: {', '.join(names)}" for needed, names in idle.items()]
    return "; ".join(lines) or None


def parameters_with(table: type[BaseModel], *properties: Property) -> frozenset[str]:
    """The parameters that have any of these properties."""
    return frozenset(
        name for name, field in table.model_fields.items() if any(item in properties for item in field.metadata)
    )


def secrets_of(table: type[BaseModel]) -> frozenset[str]:
    """The parameters whose values must not appear in any message, page or file."""
    return frozenset(name for name, field in table.model_fields.items() if SecretStr in plain_types(field.annotation))


def plain_types(annotation: Any) -> set[Any]:
    """The types inside unions and `Annotated`."""
    inner = get_args(annotation)
    return set().union(*map(plain_types, inner)) if inner else {annotation}


def choices(field: FieldInfo) -> list[str] | None:
    """The allowed values of a `Literal` field, else None."""
    return list(get_args(field.annotation)) if get_origin(field.annotation) is Literal else None


def _split_commas(given: object) -> object:
    """`["a,b", "c"]` and `"a, b, c"` are the same list: names of headers, fields and parameters have no comma.

    `{}` is the same as `[]`, as in Kong: Lua has only one kind of empty table.
    """
    if given == {}:
        return ()
    if isinstance(given, str):
        given = [given] if given.strip() else ()
    if isinstance(given, list | tuple) and all(isinstance(item, str) for item in given):
        if not all(item.strip() for item in given):
            raise ValueError("must not hold an empty text")
        return tuple(part for item in given for raw in item.split(",") if (part := raw.strip()))
    return given


def _blank_is_none(given: object) -> object:
    return None if isinstance(given, str) and not given.strip() else given


def _expand_user(path: str | None) -> str | None:
    return str(expanded(path)) if path is not None and path.startswith("~") else path


def fitting(kinds: set[Any], given: object) -> object:
    """Check a value for a parameter of these types, and strip it. Raises `ValueError` if it does not fit.

    Numbers and booleans are not interchangeable. Text must not have control characters inside, or bytes that are not
    UTF-8, since headers, files and events cannot have them. A secret may be a multi-line key, and is not changed.
    """
    if isinstance(given, bool) and bool not in kinds:
        raise ValueError("must not be true or false")
    if isinstance(given, int | float) and not isinstance(given, bool) and bool in kinds:
        raise ValueError("must be true or false")
    if isinstance(given, list | tuple):
        return type(given)(fitting(kinds, item) for item in given)
    if not isinstance(given, str):
        return given
    text = " ".join(given.split()) if SecretStr in kinds else given.strip()
    if UNFIT.search(text):
        raise ValueError("must be text without control characters")
    return given if SecretStr in kinds else text


def _is_header_name(name: str | None) -> str | None:
    if name is not None and not HEADER_NAME.fullmatch(name):
        raise ValueError("must be a header's name, such as X-User-Id")
    return name


def _are_header_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        _is_header_name(name)
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
HeaderNames = Annotated[Names, AfterValidator(_are_header_names)]
OptionalName = Annotated[str | None, BeforeValidator(_blank_is_none)]
OptionalHeaderName = Annotated[OptionalName, AfterValidator(_is_header_name)]
FilePath = Annotated[str | None, AfterValidator(_expand_user), Property.FILE]
OptionalPath = Annotated[FilePath, BeforeValidator(_blank_is_none)]


class SettingsError(ValueError):
    """An invalid parameter. The text is one line with the parameter's name and what is allowed."""


WHOLE_NUMBER = "must be a whole number"
TYPES: Mapping[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text (a number needs quotes)",
    "tuple_type": "must be a list of texts",
    **dict.fromkeys(("int_parsing", "int_parsing_size", "int_type", "int_from_float", "finite_number"), WHOLE_NUMBER),
}
"""Short texts in place of pydantic's, by type of error."""


def parse_table[Table: BaseModel](
    table: type[Table], given: Mapping[str, Any], former: Mapping[str, str] = {}
) -> Table:
    """A table from plain values. Raises `SettingsError` with one line about all errors, without secrets.

    `former`: names of former parameters, and what to do about each.
    """
    try:
        return table.model_validate(dict(given))
    except ValidationError as error:
        raise SettingsError("; ".join(_reasons(table, error, given, former))) from None


def _reasons(
    table: type[BaseModel], error: ValidationError, given: Mapping[str, Any], former: Mapping[str, str]
) -> Iterable[str]:
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden" and name in former:
            yield f"{name}: {former[name]}"
        elif fault["type"] == "extra_forbidden":
            yield f"{name}: there is no such parameter{did_you_mean(name, table.model_fields)}"
        else:
            reason = TYPES.get(fault["type"]) or _reason(fault["msg"])
            yield f"{name}: {reason}, {shown(table, name, given.get(name))} was given"


def _reason(message: str) -> str:
    if message.startswith("Value error, "):
        return message.removeprefix("Value error, ")
    message = message.removeprefix("Input ")
    return message[:1].lower() + message[1:]


def shown(table: type[BaseModel], name: str, value: object) -> str:
    """A value as a message may quote it."""
    return HIDDEN if name in secrets_of(table) else quoted(value)
