"""What the manifests of docker/kubernetes share with the gateway."""

from typing import Any

from ruamel.yaml import YAML

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
