"""Imports addons of mitmproxy lazily that `moesif-proxy` does not run.

`mitmproxy.addons` imports all of them, and these pull in Flask, ldap3 and Werkzeug: a fifth of a worker's imports.
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
    """Finds these modules as Python does, but runs their code only at the first attribute access."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in UNUSED else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_when_asked_for() -> None:
    """Call before mitmproxy is imported; it has no effect afterwards."""
    if not any(isinstance(each, _WhenAskedFor) for each in sys.meta_path):
        sys.meta_path.insert(0, _WhenAskedFor())
