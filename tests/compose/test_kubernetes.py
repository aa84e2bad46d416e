"""The manifests and Helm values: Kubernetes takes them, they fit together, and times and sizes add up."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mitmproxy_moesif.config.options import given_environment
from mitmproxy_moesif.config.settings import Settings, parse_settings
from mitmproxy_moesif.proxy.arguments import parse
from mitmproxy_moesif.web.access import Address
from tests.compose.tools import (
    COMPOSE,
    SCRIPT_SECONDS,
    all_parsed,
    arguments_of,
    image_environment,
    leading_comment,
    parsed,
    size,
)

FOLDER = COMPOSE / "kubernetes"
VERSIONS = ("1.27", "1.31", "latest")
KONG_DRAIN_SECONDS = 25
"""What the chart gives Kong to end: `kong quit --wait=15`, and its timeout of 10 s."""

KONG_POD_PORTS = {8000, 8443, 8001, 8444, 8100, 8543, 8005, 8006, 8007, 8002, 8445, 8003, 8446, 8004, 8447}
KONG_POD_PORTS |= {8080, 10254, 10255, 10256}
"""Kong's listeners by the chart's defaults, and the ingress controller's: admission webhook, health, diagnostics."""

LASTING = ("readinessProbe", "livenessProbe")

Manifest = dict[str, Any]


def manifests() -> dict[str, Manifest]:
    """By kind; there is one of each."""
    documents = [
        document for name in ("secret", "front") for document in all_parsed((FOLDER / f"{name}.yml").read_text())
    ]
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found


def values(name: str) -> Manifest:
    found: Manifest = parsed((FOLDER / f"kong-{name}-values.yml").read_text())
    return found


def front_pod() -> Manifest:
    pod: Manifest = manifests()["Deployment"]["spec"]["template"]["spec"]
    return pod


def sidecar_pod() -> Manifest:
    """The part of Kong's Pod that the values give: the chart puts both lists into it as they are."""
    given = values("behind")
    deployment = given["deployment"]
    return {
        "containers": deployment["sidecarContainers"],
        "volumes": deployment["userDefinedVolumes"],
        "terminationGracePeriodSeconds": given["terminationGracePeriodSeconds"],
    }


PODS = pytest.mark.parametrize("pod", [front_pod(), sidecar_pod()], ids=["front", "sidecar"])


def container_of(pod: Manifest) -> Manifest:
    (container,) = pod["containers"]
    return container  # type: ignore[no-any-return]


def settings_of(pod: Manifest) -> Settings:
    """With which settings the addon starts, the Secret's value being a text. Raises `SettingsError`."""
    container = container_of(pod)
    given = {**image_environment()}
    if "envFrom" in container:
        assert container["envFrom"] == [{"configMapRef": {"name": manifests()["ConfigMap"]["metadata"]["name"]}}]
        given |= manifests()["ConfigMap"]["data"]
    given |= {entry["name"]: entry.get("value", "from the Secret") for entry in container["env"]}
    return parse_settings(given_environment(given))


def validate(manifest: Manifest, version: str) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        pytest.fail("kubernetes-validate is needed for this test: pip install kubernetes-validate")
    wanted = kubernetes_validate.latest_version() if version == "latest" else version
    kubernetes_validate.validate(manifest, wanted, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_manifests(version: str) -> None:
    for manifest in manifests().values():
        validate(manifest, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_sidecar(version: str) -> None:
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kong"}, "spec": sidecar_pod()}, version)


def test_a_mistake_would_be_seen() -> None:
    broken = manifests()["Deployment"]
    container_of(broken["spec"]["template"]["spec"])["readyProbe"] = {}
    with pytest.raises(Exception, match="readyProbe"):
        validate(broken, "latest")


def test_every_kind_is_there() -> None:
    wanted = {"ConfigMap", "Deployment", "Service", "Secret", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    assert manifests().keys() == wanted


# --- what refers to what


def test_everything_is_about_the_same_pods() -> None:
    found = manifests()
    deployment = found["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "the autoscaler's number would be taken back by each apply"


def test_the_service_leads_to_the_port_that_is_listened_at() -> None:
    (port,) = manifests()["Service"]["spec"]["ports"]
    container = container_of(front_pod())
    named = {entry["name"]: entry["containerPort"] for entry in container["ports"]}
    assert parse(container["args"]).listen == Address("0.0.0.0", named[port["targetPort"]])


@PODS
def test_the_application_id_comes_from_the_secret_alone(pod: Manifest) -> None:
    secret = manifests()["Secret"]
    key = "application-id"
    (entry,) = [entry for entry in container_of(pod)["env"] if entry["name"] == "MOESIF_APPLICATION_ID"]
    assert entry["valueFrom"] == {"secretKeyRef": {"name": secret["metadata"]["name"], "key": key}}
    assert all(value.startswith("REPLACE-") for value in secret["stringData"].values())
    for path in FOLDER.glob("*.yml"):
        for name, literal in re.findall(r"secret generic (\S+) .*?--from-literal=([\w-]+)=", leading_comment(path)):
            assert (name, literal) == (secret["metadata"]["name"], key), path


@PODS
def test_the_addon_starts_with_these_settings(pod: Manifest) -> None:
    settings = settings_of(pod)
    assert settings.position == ("front" if "envFrom" in container_of(pod) else "behind")
    assert settings.application_id.get_secret_value()


def test_behind_kong_only_kong_reaches_the_addon_and_is_believed() -> None:
    arguments = parse(container_of(sidecar_pod())["args"])
    assert arguments.listen.host == "127.0.0.1"
    assert not arguments.forwarded, "Kong has set X-Forwarded-* already"
    assert settings_of(sidecar_pod()).trusted_ips == ("127.0.0.0/8",)
    kong = parsed(values("dbless")["dblessConfig"]["config"])
    assert [service["url"] for service in kong["services"]] == [f"http://{arguments.listen}"]


def test_in_front_kong_is_told_whom_to_believe() -> None:
    assert parse(container_of(front_pod())["args"]).forwarded
    env = values("front")["env"]
    assert env.keys() == {"trusted_ips", "real_ip_header", "real_ip_recursive"}
    assert (env["real_ip_header"], env["real_ip_recursive"]) == ("X-Forwarded-For", "on")


# --- what each Pod may do


@PODS
def test_the_container_may_do_next_to_nothing(pod: Manifest) -> None:
    context = {**pod.get("securityContext", {}), **container_of(pod)["securityContext"]}
    (user,) = arguments_of("USER")
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_pod_has_no_credentials_of_the_cluster() -> None:
    assert front_pod()["automountServiceAccountToken"] is False


@PODS
def test_what_is_written_goes_to_a_volume(pod: Manifest) -> None:
    (mount,) = container_of(pod)["volumeMounts"]
    assert [mount["mountPath"]] == arguments_of("VOLUME")
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]


@PODS
def test_health_is_probed(pod: Manifest) -> None:
    container = container_of(pod)
    port = str(parse(container["args"]).listen.port)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        given = container[probe]
        assert given["exec"]["command"] == ["python", "/opt/moesif/healthcheck.py", port]
        assert given["timeoutSeconds"] > 2 * SCRIPT_SECONDS
    ready, live = (container[probe]["periodSeconds"] * container[probe]["failureThreshold"] for probe in LASTING)
    assert ready < live, "what hangs is out of the traffic before it is restarted"


@PODS
def test_the_probes_ask_on_loopback(pod: Manifest) -> None:
    """On any other address the listener demands a token, which the script does not have."""
    address = Address.parse(settings_of(pod).admin_listen or "")
    assert address.is_loopback
    assert address.port != parse(container_of(pod)["args"]).listen.port


def test_in_kongs_pod_the_admin_api_asks_for_a_token() -> None:
    (entry,) = [entry for entry in container_of(sidecar_pod())["env"] if entry["name"] == "MOESIF_ADMIN_TOKEN"]
    reference = entry["valueFrom"]["secretKeyRef"]
    assert reference["name"] == manifests()["Secret"]["metadata"]["name"]
    assert reference["key"] in manifests()["Secret"]["stringData"]
    for text in (leading_comment(FOLDER / "kong-behind-values.yml"), (COMPOSE / "konnect.md").read_text()):
        made = re.findall(
            rf"secret generic moesif --namespace kong .*?--from-literal={reference['key']}=", text, re.DOTALL
        )
        assert made, "without the key the container is not even made"


def test_in_kongs_pod_no_port_is_taken_twice() -> None:
    arguments, settings = parse(container_of(sidecar_pod())["args"]), settings_of(sidecar_pod())
    ours = {arguments.listen.port, Address.parse(settings.admin_listen or "").port}
    assert len(ours) == 2
    assert ours.isdisjoint(KONG_POD_PORTS)


@PODS
def test_images_have_a_version(pod: Manifest) -> None:
    assert re.fullmatch(r"registry\.example\.com/mitmproxy-moesif:\d+\.\d+\.\d+", container_of(pod)["image"])


# --- time and space


@PODS
def test_there_is_time_to_drain(pod: Manifest) -> None:
    (command, pause) = container_of(pod)["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    deliver = settings_of(pod).shutdown_timeout
    assert deliver > Settings.model_fields["shutdown_timeout"].default
    drain = parse(container_of(pod)["args"]).drain_timeout + deliver / 1000
    assert int(pause) + drain < pod["terminationGracePeriodSeconds"]


def test_the_sidecar_outlives_kong() -> None:
    assert int(container_of(sidecar_pod())["lifecycle"]["preStop"]["exec"]["command"][1]) > KONG_DRAIN_SECONDS


@PODS
def test_the_spool_is_full_before_the_volume_is(pod: Manifest) -> None:
    (volume,) = pod["volumes"]
    assert settings_of(pod).spool_max_bytes * 1.5 < size(volume["emptyDir"]["sizeLimit"])


@PODS
def test_the_queue_is_full_before_the_memory_is(pod: Manifest) -> None:
    limit = size(container_of(pod)["resources"]["limits"]["memory"])
    assert settings_of(pod).queue_max_bytes * 2 + size("256Mi") < limit


@PODS
def test_the_autoscalers_know_what_a_pod_asks_for(pod: Manifest) -> None:
    assert container_of(pod)["resources"]["requests"].keys() == {"cpu", "memory"}


def test_a_disruption_leaves_a_pod_standing() -> None:
    found = manifests()
    allowed = found["PodDisruptionBudget"]["spec"]["maxUnavailable"]
    assert found["HorizontalPodAutoscaler"]["spec"]["minReplicas"] > allowed
    assert found["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
