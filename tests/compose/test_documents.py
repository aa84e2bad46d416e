"""The two documents say what the code does: parameters, defaults, causes, messages, files and places in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.reference import markdown
from mitmproxy_moesif.config.settings import Settings, parse_settings
from mitmproxy_moesif.kong.declarative import load_declarative
from mitmproxy_moesif.proxy.arguments import parse
from tests.compose.tools import COMPOSE, fenced, parsed
from tests.support import REPOSITORY

MIGRATION = COMPOSE / "from-kong-plugin.md"
KONNECT = COMPOSE / "konnect.md"
DOCUMENTS = pytest.mark.parametrize("document", [MIGRATION, KONNECT], ids=lambda path: path.name)

OF_THE_PLUGIN = (
    "application_id",
    "api_endpoint",
    "timeout",
    "connect_timeout",
    "send_timeout",
    "keepalive",
    "api_version",
    "disable_capture_request_body",
    "disable_capture_response_body",
    "request_header_masks",
    "response_header_masks",
    "request_body_masks",
    "response_body_masks",
    "request_masks",
    "response_masks",
    "request_query_masks",
    "batch_size",
    "user_id_header",
    "company_id_header",
    "authorization_header_name",
    "authorization_user_id_field",
    "authorization_company_id_field",
    "disable_gzip_payload_decompression",
    "max_callback_time_spent",
    "request_max_body_size_limit",
    "response_max_body_size_limit",
    "event_queue_size",
    "disable_transaction_id",
    "enable_compression",
    "debug",
    "enabled",
)
"""The parameters of Moesif's Kong plugin 2.1.2."""


def section(document: Path, heading: str) -> str:
    """The text under a heading of the second level."""
    return document.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code_of_the_package() -> str:
    return "\n".join(path.read_text() for path in sorted((REPOSITORY / "addon").rglob("*.py")))


def test_the_table_has_every_parameter_of_the_plugin_and_this_packages_defaults() -> None:
    expected = []
    for name in OF_THE_PLUGIN:
        shown = "`enabled`" if name == "enabled" else f"`config.{name}`"
        if Settings.model_fields[name].deprecated:
            shown += " (deprecated)"
        expected.append([shown, f"`moesif_{name}`", f"`MOESIF_{name.upper()}`", documented_default(name)])
    assert rows(section(MIGRATION, "Parameters")) == expected


def documented_default(name: str) -> str:
    (row,) = [row for row in markdown(Settings).splitlines() if row.startswith(f"| `{name}` |")]
    return row.split(" | ")[1]


@DOCUMENTS
def test_every_option_and_variable_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(r"\bmoesif_([a-z_]+)\b", text))
    named |= {name.lower() for name in re.findall(r"\bMOESIF_([A-Z_]+)\b", text)}
    assert named <= Settings.model_fields.keys()


@DOCUMENTS
def test_variables_have_values_that_are_taken(document: Path) -> None:
    lines = [line for block in fenced(document, "console") for line in block.replace("\\\n", " ").splitlines()]
    given = [dict(re.findall(r"-e (MOESIF_[A-Z_]+)=(\S+)", line)) for line in lines]
    for variables in given:
        parse_settings(given_environment(variables))
    assert document != KONNECT or any(given)


def test_a_scope_has_the_same_command_as_with_the_plugin() -> None:
    """Kong's own path and data, at the addon's port; the names are those of the stacks' Kong."""
    table = rows(section(MIGRATION, "Per service, route and consumer"))
    assert "that entry is the options" in table[0][2]
    commands = [re.findall(r"`(curl [^`]+)`", cell) for row in table[1:] for cell in row[1:3]]
    assert all(commands)
    kong = load_declarative(COMPOSE / "kong.yml")
    known = {f"services/{service.name}" for service in kong.services}
    known |= {f"routes/{route.name}" for route in kong.routes}
    known |= {f"consumers/{consumer.username}" for consumer in kong.consumers}
    for (old, *_), (new, *more) in zip(commands[::2], commands[1::2], strict=True):
        assert old.replace(":8001/", ":8095/") == new
        assert set(re.findall(r"8095/(\w+/\w+)/plugins", new)) <= known
        assert all(shlex.split(command)[0] == "curl" for command in more)
    scopes = [row[3] for row in table]
    assert [scope.partition(":")[0].strip("`- ") for scope in scopes] == [
        "name",
        "service",
        "route",
        "consumer",
        "enabled",
        "",
    ]


def test_konnects_two_forms_say_the_same() -> None:
    """Docker's variables and the chart's values, but for where the certificate is and whom Kong believes."""
    docker = dict(re.findall(r"-e KONG_([A-Z_]+)=(\S+)", KONNECT.read_text()))
    (values,) = [parsed(block) for block in fenced(KONNECT, "yaml") if "konnect_mode" in block]
    helm = {name.upper(): value for name, value in values["env"].items()}
    apart = {"CLUSTER_CERT", "CLUSTER_CERT_KEY"}
    believed = {"TRUSTED_IPS", "REAL_IP_HEADER", "REAL_IP_RECURSIVE"}
    assert {name: value for name, value in docker.items() if name not in apart | believed} == {
        name: value for name, value in helm.items() if name not in apart
    }
    assert docker.keys() - helm.keys() == believed
    (secret,) = values["secretVolumes"]
    assert all(helm[name].startswith(f"/etc/secrets/{secret}/") for name in apart)
    image = f"{values['image']['repository']}:{values['image']['tag']}"
    assert f"\n    {image}\n" in KONNECT.read_text()
    assert "-p 8443" not in KONNECT.read_text(), "nobody goes around the addon"


def test_with_konnect_the_addon_may_drain() -> None:
    (command,) = [line for line in commands_of(KONNECT) if "mitmproxy-moesif --listen" in line]
    settings = parse_settings(given_environment(dict(re.findall(r"-e (MOESIF_[A-Z_]+)=(\S+)", command))))
    (grace,) = re.findall(r"--stop-timeout (\d+)", command)
    arguments = parse(shlex.split(command.partition("mitmproxy-moesif ")[2]))
    assert arguments.drain_timeout + settings.shutdown_timeout / 1000 < int(grace)
    (trusted,) = re.findall(r"KONG_TRUSTED_IPS=(\S+)", KONNECT.read_text())
    assert f"--ip {trusted} " in command
    for option in ("--read-only", "--tmpfs /tmp", "--cap-drop ALL", "-v moesif:/var/lib/moesif"):
        assert option in command


def commands_of(document: Path) -> list[str]:
    """The lines that are typed, continued ones joined."""
    lines = [line for block in fenced(document, "console") for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(line.removeprefix("$ ").split()) for line in lines]


@DOCUMENTS
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@DOCUMENTS
def test_files_in_commands_exist(document: Path) -> None:
    for block in fenced(document, "console"):
        for path in re.findall(r"compose/[\w./-]+", block):
            assert (REPOSITORY / path).exists(), path


def test_commands_can_be_typed() -> None:
    for document in (MIGRATION, KONNECT):
        for block in fenced(document, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                assert line.startswith("$ ")
                assert shlex.split(line.removeprefix("$ "))


def test_causes_of_drops_and_log_messages_are_the_packages_own() -> None:
    text = section(MIGRATION, "Troubleshooting")
    code = code_of_the_package()
    causes = set(re.findall(r"\((\w+) N\)", text))
    assert {"refused", "queue_full", "spool_full"} <= causes
    for cause in causes:
        assert f'"{cause}"' in code, cause
    messages = re.findall(r"`(the receiver [^`(]+?) \(\.\.\.\)`", text)
    assert len(messages) == 2
    for message in messages:
        assert f"moesif: {message} (%s)" in code, message
    assert '@command.command("moesif.status")' in code


@pytest.mark.parametrize("trouble", ["No events logged to Moesif", "Duplicate events", "User ids missing"])
def test_the_plugins_troubles_have_their_sections(trouble: str) -> None:
    assert f"\n### {trouble}\n" in section(MIGRATION, "Troubleshooting")


@pytest.mark.parametrize(
    "word",
    [
        "three digits",
        "order",
        "Empty arrays",
        "Compressed text bodies",
        "cannot be parsed",
        "Every occurrence",
        "Company rules",
        "`company_id_header` beats the token",
        "`user_id_header` on the response",
        "rules that do not block",
        "`transaction_id`",
        "limit in bytes",
    ],
)
def test_each_difference_is_told(word: str) -> None:
    assert word in section(MIGRATION, "Where it differs, on purpose")


def test_variables_that_the_page_names_for_values_of_kongs_may_be_set() -> None:
    """One that begins as ours do is refused as a misspelt parameter."""
    text = (COMPOSE / "README.md").read_text()
    names = re.findall(r"\{vault://env/([\w-]+)\}", text) + re.findall(r'env "(\w+)"', text)
    assert len(names) == 2
    variables = {name.upper().replace("-", "_"): "1" for name in names}
    assert given_environment(variables) == {}
    assert all(f"`{name}`" in text for name in variables if not name.startswith("DECK_"))
