"""Kong's listings: a page of entities, filtered by tags.

`tags=a,b` means both, `tags=a/b` either. `size` is the maximum number of entities on a page, by default 100. `next` is
the path of the next page, `offset` its parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

MAX_SIZE = 1000
DEFAULT_SIZE = 100


class InvalidPage(ValueError):  # noqa: N818 - as Kong calls it
    """An invalid parameter of a page; `code` and `name` are Kong's."""

    def __init__(self, code: int, name: str, message: str) -> None:
        self.code = code
        self.name = name
        super().__init__(message)


class Form(NamedTuple):
    """Functions that return an item for display, and its tags."""

    show: Callable[[Any], Any]
    tags: Callable[[Any], Iterable[str] | None]


SHOWN_ALREADY = Form(lambda item: item, lambda item: item["tags"])


def page(
    items: Sequence[Any],
    path: str,
    form: Form = SHOWN_ALREADY,
    /,
    *,
    size: str | None,
    offset: str | None,
    tags: str | None,
) -> dict[str, Any]:
    """`{"data": [...], "next": ...}`; `show` is called only for items on the page. Raises `InvalidPage`."""
    if tags is not None:
        are_those = _condition(tags)
        items = [item for item in items if are_those(set(form.tags(item) or ()))]
    start, most = _start(offset), _size(size)
    data = [form.show(item) for item in items[start : start + most]]
    if start + most >= len(items):
        return {"data": data, "next": None}
    following = str(start + most)
    query = {"offset": following, "size": most, **({} if tags is None else {"tags": tags})}
    return {"data": data, "next": f"{path}?{urlencode(query)}", "offset": following}


def _condition(tags: str) -> Callable[[set[str]], bool]:
    """A test of whether an entity's tags match the filter."""
    if not tags:
        raise InvalidPage(11, "invalid options", "invalid option (tags: cannot be null)")
    if "," in tags and "/" in tags:
        raise InvalidPage(11, "invalid options", "invalid option (tags: invalid filter syntax)")
    if "/" in tags:
        return lambda own: not own.isdisjoint(tags.split("/"))
    return lambda own: own.issuperset(tags.split(","))


def _start(offset: str | None) -> int:
    if offset is None:
        return 0
    if not (offset.isascii() and offset.isdecimal() and len(offset) < 10):
        raise InvalidPage(7, "invalid offset", f"'{offset[:100]}' is not a valid offset: bad offset")
    return int(offset)


def _size(size: str | None) -> int:
    if size is None:
        return DEFAULT_SIZE
    if not (size.isascii() and size.isdecimal() and len(size) < 10):
        raise InvalidPage(9, "invalid size", "size must be a number")
    if not 1 <= int(size) <= MAX_SIZE:
        raise InvalidPage(9, "invalid size", f"size must be an integer between 1 and {MAX_SIZE}")
    return int(size)
