"""Replaces functions and classes of mitmproxy, and restores them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

INHERITED = object()
"""Marks an attribute that a class inherits."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """Replaces `stock`, the value of `owner.name`, with `ours`, unless another package has replaced it already."""

    owner: Any
    name: str
    stock: Any
    ours: Any

    def exchange(self, before: Any, after: Any) -> None:
        if vars(self.owner).get(self.name, INHERITED) is not before:
            return
        if after is INHERITED:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, after)


def replacement(owner: Any, name: str, ours: Any) -> Replacement:
    """Create a replacement. Call this while a module is imported, so that `stock` is mitmproxy's own."""
    return Replacement(owner, name, vars(owner).get(name, INHERITED), ours)


def put_in_place(replacements: Iterable[Replacement]) -> None:
    for each in replacements:
        each.exchange(each.stock, each.ours)


def put_back(replacements: Iterable[Replacement]) -> None:
    for each in replacements:
        each.exchange(each.ours, each.stock)


def exchange_class(instance: object, before: type, after: type) -> None:
    """Change one object's class from `before` to `after`, unless it has another class by now.

    `object.__setattr__` is used because an option manager turns plain assignments into options.
    """
    if type(instance) is before:
        object.__setattr__(instance, "__class__", after)
