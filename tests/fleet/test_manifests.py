"""The manifests of docker/kubernetes on a real API server: they apply, and allow what a session needs."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.mig import Placement, Profile
from gateway.domain.plan import SessionRequest
from gateway.domain.ssh_keys import make_pair
from gateway.domain.ssh_logins import Datagram, Kind, LoginReport
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.login_reports import report_object
from gateway.repositories.kubernetes.notices import NOTICES
from gateway.repositories.kubernetes.objects import Advice
from tests.fakes.cluster_host import SITE
from tests.fakes.pipe_parts import pipe
from tests.fleet import manifests
from tests.fleet.api import Api, Object, Refused
from tests.fleet.control_plane import ControlPlane
from tests.fleet.manifests import GATEWAY, ROUTER
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

SESSION = "0c6a2c3e-9d0b-4a57-8a7c-53a1d6f1c8aa"
IMAGE = (REPOSITORY / "docker/kubernetes/base/session-images.txt").read_text().strip()
SITE_OF_MANIFESTS = replace(SITE, image=IMAGE)
PROFILE = Profile("3g.20gb", 9, 3, 19968, 2, (Placement(0, 4), Placement(4, 4)))
BEGINS = datetime(2026, 1, 17, 8, tzinfo=UTC)
REQUEST = SessionRequest(
    session_id=SESSION,
    user_id="ann",
    uid=20007,
    mig_profile="3g.20gb",
    created_at=BEGINS,
    expires_at=BEGINS + timedelta(hours=1),
    router_key="ssh-ed25519 AAAA router",
    host_key=make_pair(),
)
POLICIES = "admissionregistration.k8s.io/v1/validatingadmissionpolicies"
PODS, SECRETS, CLAIMS = "v1/pods", "v1/secrets", "resource.k8s.io/v1/resourceclaims"
HOMES, PIPES = "v1/persistentvolumeclaims", "sshpiper.com/v1beta1/pipes"


@pytest.fixture(scope="module")
def applied(plane: ControlPlane) -> Iterator[ControlPlane]:
    """The cluster with the manifests, once their policies are in force."""
    with manifests.applied(plane, "overlays/embedded-router"):
        gateway = plane.api(GATEWAY)
        eventually(lambda: is_refused(gateway, PODS, pod(image="another")), 60)
        eventually(lambda: not is_refused(gateway, PODS, pod()), 60)
        yield plane


@pytest.fixture
def gateway(applied: ControlPlane) -> Api:
    """The API with the rights of the gateway."""
    return applied.api(GATEWAY)


def is_refused(api: Api, collection: str, manifest: Object) -> str:
    """Return why the API refuses the object, which is not made in any case; "" if it accepts it."""
    namespace = manifest["metadata"]["namespace"]
    version, _, plural = collection.rpartition("/")
    base = "/api/v1" if version == "v1" else f"/apis/{version}"
    try:
        api.ask("POST", f"{base}/namespaces/{namespace}/{plural}?dryRun=All", manifest)
    except Refused as error:
        return error.message
    return ""


def pod(**container: Any) -> Object:
    made = objects.pod(SITE_OF_MANIFESTS, REQUEST, PROFILE, "d1")
    made["spec"]["containers"][0].update(container)
    return made


def changed(manifest: Object, *path: str | int, value: Any) -> Object:
    """A copy with another value at the path."""
    made = copy.deepcopy(manifest)
    inner: Any = made
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return made


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_each_overlay_applies_to_a_cluster(plane: ControlPlane, overlay: str) -> None:
    printed = manifests.apply(plane, manifests.MANIFESTS / "overlays" / overlay)
    for expected in ("deployment.apps/gateway", "deployment.apps/router", "job.batch/migrate"):
        assert f"{expected} serverside-applied" in printed


def test_the_policies_have_no_error_that_the_api_server_sees(applied: ControlPlane) -> None:
    def checked() -> list[Object]:
        found = applied.api().list(POLICIES)
        return found if all("typeChecking" in (each.get("status") or {}) for each in found) else []

    for policy in eventually(checked, 60):
        warnings = policy["status"]["typeChecking"].get("expressionWarnings")
        assert not warnings, f"{policy['metadata']['name']}: {warnings}"


def test_the_objects_of_a_session_are_accepted(gateway: Api) -> None:
    site, request = SITE_OF_MANIFESTS, REQUEST
    for collection, manifest in (
        (HOMES, objects.volume_claim(site, request, "d1")),
        (SECRETS, objects.secret(site, request, PROFILE, "d1")),
        (CLAIMS, objects.device_claim(site, request, "3g.20gb", "d1")),
        (CLAIMS, objects.device_claim(site, request, "1g.5gb+me", "d1")),
        (PODS, objects.pod(site, request, PROFILE, "d1")),
        *zip((SECRETS, PIPES), objects.pipe(site, pipe(SESSION), "d1"), strict=True),
    ):
        assert is_refused(gateway, collection, manifest) == ""


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("metadata", "name"), "s-another", "is named s-SESSION"),
        (("spec", "containers", 0, "image"), "docker.io/another", "not in the ConfigMap session-images"),
        (
            ("spec", "containers", 0, "env"),
            [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}],
            "NVIDIA_VISIBLE_DEVICES would open GPUs",
        ),
        (("spec", "resourceClaims", 0, "resourceClaimName"), "s-another", "its own ResourceClaim"),
        (("spec", "volumes", 0, "persistentVolumeClaim", "claimName"), "home-20008", "the home of its uid"),
        (("spec", "volumes", 1, "secret", "secretName"), "s-another", "mounts its own Secret"),
        (("spec", "volumes", 0), {"name": "home", "hostPath": {"path": "/"}}, "hostPath"),
        (("spec", "securityContext", "runAsUser"), 20008, "runs as the uid of its label"),
        (("spec", "securityContext", "supplementalGroups"), [20008], "runs as the uid of its label"),
        (("spec", "automountServiceAccountToken"), True, "mounts its own Secret"),
        (("spec", "nodeName"), "node-1", "The scheduler chooses the node"),
        (("spec", "terminationGracePeriodSeconds"), 0, "grace of a session is not 0"),
        (("spec", "hostNetwork"), True, "restricted"),
        (("spec", "containers", 0, "securityContext", "privileged"), True, "privileged"),
    ],
)
def test_a_pod_that_is_no_session_is_refused(
    gateway: Api, path: tuple[str | int, ...], value: object, reason: str
) -> None:
    assert reason in is_refused(gateway, PODS, changed(pod(), *path, value=value))


def test_a_pod_with_a_second_container_is_refused(gateway: Api) -> None:
    made = pod()
    made["spec"]["containers"].append({**made["spec"]["containers"][0], "name": "second"})
    assert "one container" in is_refused(gateway, PODS, made)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}, "a class mig-PROFILE"),
        ({"name": "gpu", "exactly": {"deviceClassName": "mig-1g.5gb", "count": 2}}, "has one slice"),
        ({"name": "gpu", "exactly": {"deviceClassName": "mig-1g.5gb", "adminAccess": True}}, "admin"),
    ],
)
def test_a_claim_for_more_than_one_slice_is_refused(gateway: Api, request_: Object, reason: str) -> None:
    claim = objects.device_claim(SITE, REQUEST, "3g.20gb", "d1")
    claim["spec"]["devices"]["requests"] = [request_]
    assert reason in is_refused(gateway, CLAIMS, claim)


def test_advice_is_accepted(gateway: Api) -> None:
    advice = Advice("node-1", "GPU-1")
    claim = objects.device_claim(SITE, REQUEST, "3g.20gb", "d1", advice)
    assert is_refused(gateway, CLAIMS, claim) == ""
    assert is_refused(gateway, PODS, objects.pod(SITE_OF_MANIFESTS, REQUEST, PROFILE, "d1", advice)) == ""


def test_a_secret_with_a_token_of_a_service_account_is_refused(gateway: Api) -> None:
    made = objects.secret(SITE, REQUEST, PROFILE, "d1")
    token = {**made, "type": "kubernetes.io/service-account-token", "data": {}}
    token["metadata"] = {
        **made["metadata"],
        "annotations": {"kubernetes.io/service-account.name": "default"},
    }
    assert "no token of a service account" in is_refused(gateway, SECRETS, token)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (("spec", "from", 0, "authorized_keys_data"), "accepts any password"),
        (("spec", "to", "known_hosts_data"), "trusts any host"),
    ],
)
def test_a_route_without_keys_is_refused(gateway: Api, path: tuple[str | int, ...], reason: str) -> None:
    _, made = objects.pipe(SITE, pipe(SESSION), "d1")
    assert reason in is_refused(gateway, PIPES, changed(made, *path, value=""))


def test_a_router_creates_reports_of_logins_and_no_notices(applied: ControlPlane) -> None:
    heard = Datagram([LoginReport(Kind.ACCEPTED, 0.0, "ann", "203.0.113.7")])
    made = report_object("gpu-routes", "logins-router-1-0", heard)
    assert is_refused(applied.api(ROUTER), "v1/configmaps", made) == ""
    for path, value in ((("metadata", "name"), "n-1"), (("metadata", "labels"), dict(NOTICES))):
        forged = changed(made, *path, value=value)
        assert "reports of logins alone" in is_refused(applied.api(ROUTER), "v1/configmaps", forged)
        assert is_refused(applied.api(GATEWAY), "v1/configmaps", forged) == ""


def test_the_list_of_images_is_what_the_settings_name() -> None:
    settings = Path(REPOSITORY / "docker/kubernetes/base/gateway.env").read_text()
    assert f"GATEWAY_IMAGE={IMAGE}\n" in settings
