"""Kong's listings: a page of entities, filtered by tags.

`tags=a,b` are those with both, `tags=a/b` those with either. `size` is how many a page has at most; without it, it
holds all. `next` is the path of the page that follows, `offset` what it is asked for with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

MAX_SIZE = 1000


class InvalidPage(ValueError):  # noqa: N818 - as Kong calls it
    """A page that cannot be; `code` and `name` are Kong's."""

    def __init__(self, code: int, name: str, message: str) -> None:
        self.code = code
        self.name = name
        super().__init__(message)


def page(
    entities: Sequence[Mapping[str, Any]], path: str, *, size: str | None, offset: str | None, tags: str | None
) -> dict[str, Any]:
    """`{"data": [...], "next": ...}`. Raises `InvalidPage`."""
    found = [entity for entity in entities if tags is None or _has(entity, tags)]
    start, most = _start(offset), _size(size, len(found))
    data = found[start : start + most]
    if start + most >= len(found):
        return {"data": data, "next": None}
    following = str(start + most)
    query = {"offset": following, "size": most, **({} if tags is None else {"tags": tags})}
    return {"data": data, "next": f"{path}?{urlencode(query)}", "offset": following}


def _has(entity: Mapping[str, Any], tags: str) -> bool:
    own = set(entity.get("tags") or ())
    if "," in tags and "/" in tags:
        raise InvalidPage(11, "invalid options", "invalid option (tags: cannot mix 'and' and 'or' operators)")
    if "/" in tags:
        return not own.isdisjoint(tags.split("/"))
    return own.issuperset(tags.split(","))


def _start(offset: str | None) -> int:
    if offset is None:
        return 0
    if not (offset.isascii() and offset.isdecimal() and len(offset) < 10):
        raise InvalidPage(7, "invalid offset", f"'{offset[:100]}' is not a valid offset: bad offset")
    return int(offset)


def _size(size: str | None, otherwise: int) -> int:
    if size is None:
        return max(1, otherwise)
    if not (size.isascii() and size.isdecimal() and len(size) < 10):
        raise InvalidPage(9, "invalid size", "size must be a number")
    if not 1 <= int(size) <= MAX_SIZE:
        raise InvalidPage(9, "invalid size", f"size must be an integer between 1 and {MAX_SIZE}")
    return int(size)
