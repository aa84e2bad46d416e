"""Putting something else in the place of a function or class of mitmproxy's, and putting it back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

INHERITED = object()
"""Stands for what a class has from another one."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """`owner.name` is `stock` and becomes `ours`. What somebody else has replaced is left alone."""

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
    """To be made when a module is imported, so that `stock` is mitmproxy's own."""
    return Replacement(owner, name, vars(owner).get(name, INHERITED), ours)


def put_in_place(replacements: Iterable[Replacement]) -> None:
    for each in replacements:
        each.exchange(each.stock, each.ours)


def put_back(replacements: Iterable[Replacement]) -> None:
    for each in replacements:
        each.exchange(each.ours, each.stock)


def exchange_class(instance: object, before: type, after: type) -> None:
    """Change what one object is, unless somebody else has. (An option manager turns plain assignments into options.)"""
    if type(instance) is before:
        object.__setattr__(instance, "__class__", after)
