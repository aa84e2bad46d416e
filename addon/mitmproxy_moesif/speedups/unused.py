"""Addons of mitmproxy that `moesif-proxy` does not run, imported when something asks for them and no sooner.

`mitmproxy.addons` imports all of them, and with these come Flask, ldap3 and Werkzeug: a fifth of what a worker imports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

UNUSED = frozenset(f"mitmproxy.addons.{name}" for name in ("maplocal", "onboarding", "proxyauth"))


class _WhenAskedFor(MetaPathFinder):
    """Finds them as Python does; their code runs when the first of their names is looked up."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in UNUSED else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_when_asked_for() -> None:
    """To be called before mitmproxy is imported; without effect after that."""
    if not any(isinstance(each, _WhenAskedFor) for each in sys.meta_path):
        sys.meta_path.insert(0, _WhenAskedFor())
