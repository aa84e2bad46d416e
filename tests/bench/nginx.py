"""nginx, where it is installed: as the upstream, as a plain proxy, and as one with a logger in Lua.

The logger stands in for what Kong's plugin costs: as that does, it keeps both bodies, makes an event of both messages,
and posts the events in batches from a timer.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

MODULES = Path("/usr/lib/nginx/modules")
"""Debian's."""

MAIN = """
{modules}
daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    types {{ application/json json; }}
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    tcp_nodelay on;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    {http}
    server {{
        listen 127.0.0.1:{port}{listens};
        {server}
    }}
}}
"""

FILES = """root {www};
        error_page 405 =200 $uri;  # a POST gets the file as well"""

UPSTREAM = """upstream behind {{
        server {upstream};
        keepalive 256;
        keepalive_requests 100000000;
    }}"""

PASS = """location / {{
            proxy_pass {scheme}://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }}"""

QUEUE = """lua_package_path "/usr/share/lua/5.1/?.lua;;";
    init_worker_by_lua_block {{
        local cjson = require "cjson"
        queue = {{}}
        local function post(events)
            local body = "[" .. table.concat(events, ",") .. "]"
            local socket = ngx.socket.tcp()
            socket:settimeout(5000)
            if not socket:connect("{host}", {collector_port}) then return end
            socket:send("POST /v1/events/batch HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Type: application/json\\r\\n"
                .. "X-Moesif-Application-Id: {application_id}\\r\\nContent-Length: " .. #body .. "\\r\\n\\r\\n" .. body)
            socket:receiveuntil("\\r\\n\\r\\n")()
            socket:close()
        end
        ngx.timer.every(0.1, function()
            while #queue > 0 do
                local events = {{}}
                for number = 1, math.min(50, #queue) do
                    events[number] = cjson.encode(table.remove(queue))
                end
                post(events)
            end
        end)
    }}"""

LOGGER = """lua_need_request_body on;
        body_filter_by_lua_block {
            ngx.ctx.body = (ngx.ctx.body or "") .. (ngx.arg[1] or "")
        }
        log_by_lua_block {
            local cjson = require "cjson.safe"
            local asked, answered = ngx.req.get_headers(), ngx.resp.get_headers()
            local sent = ngx.req.get_body_data()
            if #queue >= 100000 then return end
            queue[#queue + 1] = {
                request = {
                    time = ngx.req.start_time(), verb = ngx.req.get_method(), headers = asked,
                    uri = ngx.var.scheme .. "://" .. ngx.var.host .. ngx.var.request_uri,
                    ip_address = ngx.var.remote_addr, body = sent and cjson.decode(sent), transfer_encoding = "json",
                },
                response = {
                    time = ngx.now(), status = ngx.status, headers = answered,
                    body = cjson.decode(ngx.ctx.body or ""), transfer_encoding = "json",
                },
                user_id = asked["x-user"], session_token = asked["authorization"], direction = "Incoming", weight = 1,
            }
        }"""


def program() -> str | None:
    """Debian keeps it outside a user's search path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@cache
def lua_modules() -> str | None:
    """What loads them; None where they are not installed."""
    modules = [MODULES / name for name in ("ndk_http_module.so", "ngx_http_lua_module.so")]
    has_json = any(Path(folder).glob("**/lua/5.1/cjson.so") for folder in ("/usr/lib", "/usr/local/lib"))
    if not has_json or not all(module.exists() for module in modules):
        return None
    return "\n".join(f"load_module {module};" for module in modules)


def serving_files(folder: Path, port: int, www: Path, certificate: Path | None = None) -> list[str]:
    """The command of the upstream; with TLS where there is a certificate, and its key in the same file."""
    server = FILES.format(www=www)
    return _command(folder, port, http="open_file_cache max=16;", server=server, certificate=certificate)


def passing_on(folder: Path, port: int, upstream: str, certificate: Path | None = None) -> list[str]:
    """The command of a plain proxy."""
    where = urlsplit(upstream)
    server = PASS.format(scheme=where.scheme)
    return _command(folder, port, http=UPSTREAM.format(upstream=where.netloc), server=server, certificate=certificate)


def passing_on_with_a_logger(folder: Path, port: int, upstream: str, collector: str, application_id: str) -> list[str]:
    where = urlsplit(collector)
    queue = QUEUE.format(host=where.hostname, collector_port=where.port, application_id=application_id)
    http = UPSTREAM.format(upstream=urlsplit(upstream).netloc) + "\n    " + queue
    server = f"{LOGGER}\n        {PASS.format(scheme='http')}"
    return _command(folder, port, http=http, server=server, modules=lua_modules() or "")


def _command(
    folder: Path, port: int, *, http: str, server: str, modules: str = "", certificate: Path | None = None
) -> list[str]:
    path = folder / f"nginx-{port}.conf"
    listens = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}" if certificate else ""
    path.write_text(MAIN.format(folder=folder, port=port, http=http, server=server, modules=modules, listens=listens))
    return [program() or "nginx", "-e", f"{folder}/nginx-{port}.log", "-p", str(folder), "-c", str(path)]
