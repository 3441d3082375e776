"""What the manifests of docker/kubernetes share with the gateway."""

from typing import Any

from click.testing import CliRunner
from ruamel.yaml import YAML

from gateway.cli.squid import squid_config
from gateway.domain.addresses import PROXY_PORT
from gateway.domain.outside import closed
from gateway.repositories.docker import egress as docker_egress
from gateway.repositories.kubernetes.lobby import Lobby
from gateway.repositories.kubernetes.objects import device_class_of
from gateway.settings import Settings
from gateway.simulation.catalogue import KINDS
from tests.fakes.cluster_host import SITE
from tests.fakes.gpus import FakeGpus
from tests.fakes.kubernetes import FakeKubernetes
from tests.paths import REPOSITORY

MANIFESTS = REPOSITORY / "docker/kubernetes"
DATABASE = {"GATEWAY_DB": "postgresql://gateway@db/gateway"}


def variables(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines)


def read(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(MANIFESTS / name))


BASE = variables((MANIFESTS / "base/gateway.env").read_text().splitlines())


def test_the_gateway_accepts_the_settings_of_the_manifests() -> None:
    settings = Settings.load({**BASE, **DATABASE})
    assert settings.is_cluster
    assert "gateway.gpu-gateway.svc" in settings.trusted_hosts, "the name of the Service"
    assert settings.image == (MANIFESTS / "base/session-images.txt").read_text().strip()


def test_the_gateway_accepts_the_settings_of_a_simulated_cluster() -> None:
    (overlay,) = read("overlays/simulated/kustomization.yaml")
    changes = variables(overlay["configMapGenerator"][0]["literals"])
    assert Settings.load({**BASE, **changes, **DATABASE}).is_cluster


def test_the_gateway_leads_to_the_lobby_where_its_service_listens() -> None:
    (overlay,) = read("overlays/sshpiper/kustomization.yaml")
    changes = variables(overlay["configMapGenerator"][0]["literals"])
    deployment, service = read("overlays/sshpiper/lobby.yaml")
    metadata, (port,) = service["metadata"], service["spec"]["ports"]
    address = (f"{metadata['name']}.{metadata['namespace']}.svc", port["port"])
    assert Settings.load({**BASE, **changes, **DATABASE}).lobby == address
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    container = pod["spec"]["containers"][0]
    assert container["ports"] == [{"name": port["targetPort"], "containerPort": 2222}]
    assert "--listen=0.0.0.0:2222" in container["command"]
    secret = next(each["secret"] for each in pod["spec"]["volumes"] if each["name"] == "keys")
    made = Lobby(FakeKubernetes().api, metadata["namespace"], *address).keys()
    assert secret["secretName"] == made["metadata"]["name"]
    mounted = {each["key"] for each in secret["items"]}
    assert mounted <= made["data"].keys()
    assert "ssh-privatekey" not in mounted, "the lobby has no key that opens it"
    assert {f"--lobby-key=/keys/{name}" for name in mounted} & set(container["command"])
    assert {f"--host-key=/keys/{name}" for name in mounted} & set(container["command"])


EGRESS = "components/egress"


def egress_settings() -> dict[str, str]:
    """Those of the component, for the gateway."""
    (component,) = read(f"{EGRESS}/kustomization.yaml")
    of_gateway = component["configMapGenerator"][0]
    texts = (MANIFESTS / EGRESS / "egress.env").read_text().splitlines()
    return variables([*texts, *of_gateway["literals"]])


def test_the_gateway_leads_sessions_to_the_egress_proxy_where_its_service_listens() -> None:
    _, deployment, _, service = read(f"{EGRESS}/proxy.yaml")
    settings = Settings.load({**BASE, **DATABASE, **egress_settings()})
    metadata, (port,) = service["metadata"], service["spec"]["ports"]
    assert settings.egress_service == f"{metadata['namespace']}/{metadata['name']}"
    assert settings.open_hosts == ["pypi.org:443", "files.pythonhosted.org:443"]
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    [squid] = pod["spec"]["containers"]
    assert squid["ports"] == [{"name": port["targetPort"], "containerPort": PROXY_PORT}]
    assert squid["image"] == docker_egress.IMAGE
    sessions, proxy = read(f"{EGRESS}/network-policies.yaml")
    [to_proxy] = sessions["spec"]["egress"]
    assert (
        to_proxy["ports"] == proxy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": PROXY_PORT}]
    )


def test_the_egress_proxy_reads_the_hosts_of_the_component() -> None:
    texts = (MANIFESTS / EGRESS / "egress.env").read_text().splitlines()
    done = CliRunner(env=variables(texts)).invoke(squid_config)
    assert done.exit_code == 0, done.output
    assert "acl host0 dstdomain -n pypi.org\n" in done.output
    assert "acl sessions src all\n" in done.output


def test_the_network_of_the_egress_proxy_closes_what_its_configuration_closes() -> None:
    _, proxy = read(f"{EGRESS}/network-policies.yaml")
    [block] = [
        each["ipBlock"] for rule in proxy["spec"]["egress"] for each in rule["to"] if "ipBlock" in each
    ]
    assert block["cidr"] == "0.0.0.0/0"
    assert block["except"] == [str(subnet) for subnet in closed(None, [])]


def test_each_profile_has_the_device_class_that_the_gateway_asks_for() -> None:
    classes = {each["metadata"]["name"]: each for each in read("base/device-classes.yaml")}
    for gpu in FakeGpus([name for name, kind in KINDS.items() if kind.profiles]).list():
        for profile in gpu.profiles:
            name = device_class_of(SITE, profile.name)
            assert selector(classes[name]) == selector_of(profile.name)


def selector(device_class: dict[str, Any]) -> str:
    return " ".join(device_class["spec"]["selectors"][0]["cel"]["expression"].split())


def selector_of(profile: str) -> str:
    attributes = 'device.attributes["gpu.nvidia.com"]'
    return f'device.driver == "gpu.nvidia.com" && {attributes}.?profile.orValue("") == "{profile}"'
