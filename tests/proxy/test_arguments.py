"""The command line: what is taken, and one line for what is not."""

from __future__ import annotations

import pytest

from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.web.access import Address

UPSTREAM = ("--upstream", "http://kong:8000")


def test_a_whole_command_line(tmp_path: object) -> None:
    given = parse(
        [*UPSTREAM, "--listen", "127.0.0.1:9000", "--workers", "4", "--set", "a=1", "--set", "b=2", "-s", "x.py"]
    )
    assert given.upstream == "http://kong:8000"
    assert given.listen == Address("127.0.0.1", 9000)
    assert (given.workers, given.settings, given.scripts) == (4, ("a=1", "b=2"), ("x.py",))
    assert given.forwarded


def test_what_holds_where_nothing_is_given() -> None:
    given = parse(UPSTREAM)
    assert (given.listen, given.workers, given.config, given.tls_cert) == (Address("0.0.0.0", 8080), 1, None, None)
    assert (given.max_connections, given.header_timeout, given.keepalive_timeout) == (None, 30, 75)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("8080", Address("", 8080), "*:8080"),
        (":8080", Address("", 8080), "*:8080"),
        ("*:8080", Address("", 8080), "*:8080"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("[::1]:8443", Address("::1", 8443), "[::1]:8443"),
    ],
)
def test_addresses(text: str, address: Address, shown: str) -> None:
    assert parse(["--listen", text]).listen == address
    assert str(address) == shown
    assert parse(["--listen", shown]).listen == address


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--upstream", "kong:8000"], "must be http://host[:port]"),
        (["--upstream", "http://kong:8000/path"], "must be http://host[:port]"),
        (["--upstream", "http://user@kong"], "must be http://host[:port]"),
        (["--upstream", "http://kong:99999"], "must be http://host[:port]"),
        (["--listen", "kong"], "must be HOST:PORT or PORT"),
        (["--listen", "h:70000"], "must be HOST:PORT or PORT"),
        (["--listen", "::1:80"], "an IPv6 address goes in brackets"),
        (["--workers", "0"], "must be from 1 to 256"),
        (["--workers", "many"], "must be from 1 to 256"),
        (["--drain-timeout", "-1"], "must be seconds"),
        (["--header-timeout", "soon"], "must be seconds"),
        (["--keepalive-timeout", "1e9"], "must be seconds"),
        (["--max-connections", "0"], "must be from 1 to 1000000"),
        (["--forwarded", "maybe"], "invalid choice"),
        (["--tls-cert", "/no/such/file"], "there is no file"),
        (["--config", "/no/such/file"], "there is no file"),
        (["--config", "~nobody-is-called-so/file"], "there is no file '~nobody-is-called-so/file'"),
        (["--config", "/dev"], "'/dev' cannot be read: Is a directory"),
        (["--tls-cert", "/dev/null/x"], "'/dev/null/x' cannot be read: Not a directory"),
        (["--upsteam", "http://kong"], "unrecognized arguments: --upsteam"),
        (["surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_what_cannot_be_taken_is_one_line_and_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("moesif-proxy: ")
    assert said in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--upstream", "http://ada:s3cret@h"],
        ["--upstream", "http://h/?key=s3cret#"],
        ["--listen", "http://ada:s3cret@h"],
        ["--sett", "moesif_application_id=s3cret"],
    ],
)
def test_a_secret_in_what_is_refused_is_not_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    said = capsys.readouterr().err
    assert said
    assert "s3cret" not in said
