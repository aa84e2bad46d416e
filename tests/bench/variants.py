"""What is compared. A variant that this checkout or machine does not have yet is left out, and said so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from mitmproxy_moesif.config.settings import Settings
from mitmproxy_moesif.page.main import is_there as nicegui_is_there
from tests.bench import nginx
from tests.support.browser import has_chromium

BIN = Path(sys.executable).parent

# In every variant: what a transparent reverse proxy needs of mitmproxy.
TRANSPARENT = {"keep_host_header": "true", "connection_strategy": "lazy"}

MASKS = {
    "moesif_request_header_masks": "cookie,x-api-key",
    "moesif_response_header_masks": "set-cookie",
    "moesif_request_body_masks": "password,card,ssn",
    "moesif_response_body_masks": "password,card,ssn",
    "moesif_request_query_masks": "token,q",
}


@dataclass(frozen=True)
class Variant:
    """A proxy to start. `workers` 0 is mitmdump, else that many workers of the production start; or `beside`
    which is no proxy of ours: nginx, the same with a logger in Lua, or none at all.

    `options` go as `--set`; `needs` names a parameter of the addon without which there is no such variant; `collector`
    as in `Services.collector`; `rules`: a thousand of them, from a file. `admin`: its admin listener is open, and
    exchanges are kept for who looks; `page`: somebody does, in a browser. `akto`: is a receiver too, in the state
    that `Services.collector` names. `tls_in_front`, `tls_behind`: of the proxy.
    """

    name: str
    title: str
    addon: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    collector: str = "up"
    rules: bool = False
    workers: int = 0
    needs: str | None = None
    beside: Literal["", "nginx", "nginx-lua", "nothing"] = ""
    admin: bool = False
    page: bool = False
    akto: str = ""
    tls_in_front: bool = False
    tls_behind: bool = False

    @property
    def captures(self) -> bool:
        return self.addon and self.options.get("moesif_enabled") != "false"


DIRECT = Variant("direct", "no proxy", addon=False, beside="nothing")
NGINX = Variant("nginx", "nginx, a plain proxy", addon=False, beside="nginx")
NGINX_LUA = Variant("nginx-lua", "nginx with a logger in Lua", addon=False, beside="nginx-lua")
BARE = Variant("bare", "mitmdump, no addon", addon=False)
BARE_STREAM = Variant(
    "bare-stream", "mitmdump, no addon, streaming on", addon=False, options={"stream_large_bodies": "1"}
)
FULL = Variant("full", "with the addon, full capture")
OFF = Variant("off", "with the addon, capture off", options={"moesif_enabled": "false"})
NO_SPOOL = Variant("no-spool", "full capture, spool off", options={"moesif_spool_dir": "off"})
THREADS = Variant(
    "threads",
    "full capture, built in the proxy's threads",
    options={"moesif_background": "threads"},
    needs="background",
)
MASKED = Variant("masks", "full capture, masks", options=MASKS)
SLOW = Variant("slow", "full capture, collector slow", collector="slow")
DOWN = Variant("down", "full capture, collector down", collector="down")
RULES = Variant("rules", "full capture, 1,000 rules", rules=True, needs="rules_file")
NO_TABLE = Variant(
    "no-table",
    "full capture, engine's own dispatch",
    options={"moesif_fast_dispatch": "false"},
    needs="fast_dispatch",
)
LAYERS = {"moesif_engine": "mitmproxy"}
ONE_WORKER = Variant("proxy-1", "moesif-proxy, 1 worker, full capture", workers=1)
ONE_WORKER_OFF = Variant(
    "proxy-1-off", "moesif-proxy, 1 worker, capture off", options={"moesif_enabled": "false"}, workers=1
)
LAYERED = Variant(
    "layers-1", "moesif-proxy, mitmproxy's layers, full capture", options=LAYERS, workers=1, needs="engine"
)
LAYERED_OFF = Variant(
    "layers-1-off",
    "moesif-proxy, mitmproxy's layers, capture off",
    options={**LAYERS, "moesif_enabled": "false"},
    workers=1,
    needs="engine",
)
LISTENED = Variant("admin", "moesif-proxy, 1 worker, admin listener open", workers=1, admin=True)
WATCHED = Variant("page", "the same, and the traffic page follows", workers=1, admin=True, page=True)
TWO_WORKERS = Variant("proxy-2", "moesif-proxy, 2 workers, full capture", workers=2)
AKTO = tuple(
    Variant(f"akto-{state}", f"the same and Akto, {told}", workers=1, akto=state, needs="akto_service_url")
    for state, told in (("up", "up"), ("slower", "3 s for each answer"), ("down", "gone"))
)


def secured(variant: Variant, *, in_front: bool, behind: bool) -> Variant:
    """The same with TLS."""
    return replace(variant, tls_in_front=in_front, tls_behind=behind)


def there(variants: Sequence[Variant]) -> list[Variant]:
    """Those that can be started here."""
    return [variant for variant in variants if missing(variant) is None]


def missing(variant: Variant) -> str | None:
    """Why a variant cannot be started; None where it can."""
    if variant.needs is not None and variant.needs not in Settings.model_fields:
        return f"there is no moesif_{variant.needs}"
    if variant.beside.startswith("nginx") and nginx.program() is None:
        return "there is no nginx"
    if variant.beside == "nginx-lua" and nginx.lua_modules() is None:
        return "there are no Lua modules of nginx: libnginx-mod-http-lua, lua-cjson"
    if variant.workers and production_start() is None:
        return "there is no moesif-proxy"
    if variant.tls_behind and nginx.program() is None:
        return "there is no nginx, the upstream with TLS"
    if variant.page and not (nicegui_is_there() and has_chromium()):
        return "there is no NiceGUI, or no Chromium"
    return None


@cache
def production_start() -> tuple[str, ...] | None:
    """The command of the production start; None where there is none."""
    script = BIN / "moesif-proxy"
    for command in ((str(script),), (sys.executable, "-m", "mitmproxy_moesif", "proxy")):
        if command[0] == str(script) and not script.exists():
            continue
        if not subprocess.run([*command, "--help"], capture_output=True, timeout=30, check=False).returncode:
            return command
    return None
