"""The nginx configuration that does to messages what Kong does.

From the source of Kong's run loop and of its nginx template: what is sent upstream, what is believed from whom, which
headers answers get. nginx's own names are used where they mean the same: `$realip_remote_addr` is the peer,
`$remote_addr` the client as Kong sees it. Latencies are nginx's: Kong's proxy latency is the time to reach the service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.topology.kong import VERSION, Consumer, KongConfiguration, Route, credential_id

_MAIN = """
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    default_type "";
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map_hash_bucket_size 128;
    underscores_in_headers on;
    client_max_body_size 0;

    {trusted}
    real_ip_header X-Forwarded-For;
    real_ip_recursive on;

    upstream service {{ server 127.0.0.1:{service_port}; keepalive 32; }}
    upstream kong_itself {{ server 127.0.0.1:{itself_port}; keepalive 32; }}
    {maps}
    {servers}
}}
"""

# Only the client's X-Forwarded-For is passed on from whoever sent it; the others from peers that are trusted.
_MAPS = """
    map $http_x_forwarded_for $upstream_for {
        ""      $remote_addr;
        default "$http_x_forwarded_for, $realip_remote_addr";
    }
    map "$peer_is_trusted$http_x_forwarded_proto" $upstream_proto {
        "~^1(?<given_proto>.+)" $given_proto;
        default $scheme;
    }
    map "$peer_is_trusted$http_x_forwarded_host" $upstream_forwarded_host {
        "~^1(?<given_host>.+)" $given_host;
        default $host;
    }
    map "$peer_is_trusted$http_x_forwarded_port" $upstream_port {
        "~^1(?<given_port>.+)" $given_port;
        default $server_port;
    }
    map $request_uri $request_path {
        "~^(?<path_alone>[^?]*)" $path_alone;
    }
    map "$peer_is_trusted$http_x_forwarded_path" $upstream_path {
        "~^1(?<given_path>.+)" $given_path;
        default $request_path;
    }
    map "$peer_is_trusted$http_x_forwarded_prefix" $upstream_prefix {
        "~^1(?<given_prefix>.+)" $given_prefix;
        default $stripped_prefix;
    }
    map $http_via $upstream_via {
        ""      "1.1 kong/VERSION";
        default "$http_via, 1.1 kong/VERSION";
    }
    map $upstream_http_via $downstream_via {
        ""      "1.1 kong/VERSION";
        default "$upstream_http_via, 1.1 kong/VERSION";
    }
    map $upstream_http_server $downstream_server { "" kong/VERSION; }
    map $upstream_connect_time $proxy_latency { MILLISECONDS }
    map $upstream_header_time $upstream_latency { MILLISECONDS }
    map $request_time $response_latency { MILLISECONDS }
    map $http_upgrade $upstream_upgrade { "~*^websocket$" websocket; }
    map $http_upgrade $upstream_connection { "~*^websocket$" "keep-alive, Upgrade"; default keep-alive; }
    map $http_te $upstream_te { "~*trailers" trailers; }
    map $http_apikey $key { "" $arg_apikey; default $http_apikey; }
    map $consumer_id $anonymous { "" true; }
    map $request_uri $query { "~(?<query_alone>[?].*)$" $query_alone; }
    map $query $query_without_key {
        "~^[?]apikey=[^&]*$" "";
        "~^(?<before_key>.*[?&])apikey=[^&]*&(?<after_key>.*)$" $before_key$after_key;
        "~^(?<before_last>.*)&apikey=[^&]*$" $before_last;
        default $query;
    }
"""

_MILLISECONDS = r'"~^0\.0*(?<NAME_ms>\d+)$" $NAME_ms; "~^(?<NAME_s>\d+)\.(?<NAME_rest>\d+)$" $NAME_s$NAME_rest;'

_PROXY = """
            proxy_http_version 1.1;
            proxy_bind {address};
            proxy_set_header TE $upstream_te;
            proxy_set_header Via $upstream_via;
            proxy_set_header Host {host};
            proxy_set_header Upgrade $upstream_upgrade;
            proxy_set_header Connection $upstream_connection;
            proxy_set_header X-Forwarded-For $upstream_for;
            proxy_set_header X-Forwarded-Proto $upstream_proto;
            proxy_set_header X-Forwarded-Host $upstream_forwarded_host;
            proxy_set_header X-Forwarded-Port $upstream_port;
            proxy_set_header X-Forwarded-Path $upstream_path;
            proxy_set_header X-Forwarded-Prefix $upstream_prefix;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Kong-Request-Id $request_id;
            {consumer}
            proxy_pass_header Server;
            proxy_pass_header Date;
            proxy_hide_header Via;
            proxy_hide_header X-Kong-Upstream-Latency;
            proxy_hide_header X-Kong-Proxy-Latency;
            proxy_hide_header X-Kong-Request-Id;
            add_header X-Kong-Upstream-Latency $upstream_latency always;
            add_header X-Kong-Proxy-Latency $proxy_latency always;
            add_header Via $downstream_via always;
            add_header Server $downstream_server always;
            add_header X-Kong-Request-Id $request_id always;
            proxy_pass http://service{uri};
"""

# What Kong does not pass on, it answers: `error_page` leads from nginx's own statuses to here.
_SERVER = """
    server {{
        listen 127.0.0.1:{listen};
        server_name {name};
        set $stripped_prefix "";
        set $case no_route;
        error_page 401 404 429 = @kong_itself;
        location / {{ return 404; }}
        {locations}
        location @kong_itself {{
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header X-Kong-Request-Id $request_id;
            proxy_pass_header Server;
            add_header X-Kong-Response-Latency $response_latency always;
            add_header X-Kong-Request-Id $request_id always;
            proxy_pass http://kong_itself/$case;
        }}
    }}
"""


def render(
    kong: KongConfiguration,
    folder: Path,
    *,
    port: int,
    service_port: int,
    itself_port: int,
    address: str,
    trusted_ips: Iterable[str],
) -> str:
    """nginx.conf. `address` is where Kong's connections to the service come from."""
    routes = dict(enumerate(kong.routes))
    networks = tuple(trusted_ips)
    shared = [number for number, route in routes.items() if route.host is None]
    servers = [_server("_", f"{port} reuseport", [_location(n, routes[n], service_port, address) for n in shared])]
    for name in {route.host for route in kong.routes if route.host}:
        # A route with the host goes before one that has only the path.
        own = {route.path: number for number, route in routes.items() if route.host == name}
        numbers = [*own.values(), *(n for n in shared if routes[n].path not in own)]
        servers.append(_server(name, str(port), [_location(n, routes[n], service_port, address) for n in numbers]))
    return _MAIN.format(
        folder=folder,
        service_port=service_port,
        itself_port=itself_port,
        trusted="\n    ".join(f"set_real_ip_from {network};" for network in networks),
        maps="\n".join([_trust(networks), _plain_maps(), *_consumers(kong), *map(_route_maps, routes, kong.routes)]),
        servers="\n".join(servers),
    )


def _server(name: str, listen: str, locations: list[str]) -> str:
    return _SERVER.format(name=name, listen=listen, locations="\n".join(locations))


def _trust(networks: tuple[str, ...]) -> str:
    return f"geo $realip_remote_addr $peer_is_trusted {{ default 0; {' '.join(f'{net} 1;' for net in networks)} }}"


def _plain_maps() -> str:
    maps = _MAPS.replace("VERSION", VERSION)
    for name in ("proxy", "upstream", "response"):
        maps = maps.replace("MILLISECONDS", _MILLISECONDS.replace("NAME", name), 1)
    return maps


def _consumers(kong: KongConfiguration) -> Iterable[str]:
    """Who a key belongs to; nothing where it is nobody's."""
    yield _by_key(kong, "consumer_id", lambda consumer, key: consumer.id)
    yield _by_key(kong, "consumer_username", lambda consumer, key: consumer.username or "")
    yield _by_key(kong, "consumer_custom_id", lambda consumer, key: consumer.custom_id or "")
    yield _by_key(kong, "credential", lambda consumer, key: credential_id(key))


def _by_key(kong: KongConfiguration, variable: str, value: Callable[[Consumer, str], str]) -> str:
    entries = " ".join(f'"{key}" "{value(consumer, key)}";' for consumer in kong.consumers for key in consumer.keys)
    return f'map $key ${variable} {{ default ""; {entries} }}'


def _route_maps(number: int, route: Route) -> str:
    """The path to ask the service for, who an anonymous route takes callers for, and the count of a limit."""
    path = re.escape(route.path) if route.strip_path else ""
    maps = [f'map $request_uri $path_{number} {{ "~^{path}/?(?<rest_{number}>[^?]*)" /$rest_{number}; }}']
    if route.key_auth is not None and (guest := route.key_auth.anonymous) is not None:
        for name, value in (("id", guest.id), ("username", guest.username), ("custom_id", guest.custom_id)):
            known = f"default $consumer_{name};"
            maps.append(f'map $consumer_id ${name}_{number} {{ "" "{value or ""}"; {known} }}')
    if route.limited:
        maps.append(f"limit_req_zone $server_port zone=limit_{number}:64k rate=1r/m;")
    return "\n".join(maps)


def _location(number: int, route: Route, service_port: int, address: str) -> str:
    auth, lines = route.key_auth, []
    if route.strip_path:
        lines.append(f"set $stripped_prefix {route.path};")
    if route.limited:
        lines.append(f"set $case limited; limit_req zone=limit_{number}; limit_req_status 429;")
    if auth is not None and auth.anonymous is None:
        lines.append('if ($consumer_id = "") { set $case bad_key; }')
        lines.append('if ($key = "") { set $case no_key; }')
        lines.append('if ($consumer_id = "") { return 401; }')
    query = "$query_without_key" if auth is not None and auth.hide_credentials else "$query"
    lines.append(
        _PROXY.format(
            address=address,
            host="$http_host" if route.preserve_host else f"127.0.0.1:{service_port}",
            consumer="\n            ".join(_consumer_headers(number, route)),
            uri=f"$path_{number}{query}",
        )
    )
    return f"location ^~ {route.path} {{\n            " + "\n            ".join(lines) + "\n        }"


def _consumer_headers(number: int, route: Route) -> Iterable[str]:
    """key-auth sets or clears them; a route without an authentication plugin passes the client's own."""
    if route.key_auth is None:
        return
    guests = route.key_auth.anonymous is not None
    for header, name in (("Id", "id"), ("Username", "username"), ("Custom-Id", "custom_id")):
        variable = f"${name}_{number}" if guests else f"$consumer_{name}"
        yield f"proxy_set_header X-Consumer-{header} {variable};"
    yield "proxy_set_header X-Credential-Identifier $credential;"
    yield "proxy_set_header X-Anonymous-Consumer $anonymous;"
    if route.key_auth.hide_credentials:
        yield 'proxy_set_header apikey "";'
