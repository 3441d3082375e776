"""The manifests of a session, against files that a person has read.

`RENEW_MANIFESTS=1 pytest …` writes the files again: read the difference.
"""

import json
import os
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.mig import Placement, Profile
from gateway.domain.pipe import Pipe
from gateway.domain.plan import SessionRequest
from gateway.domain.ssh_keys import KeyPair, make_pair
from gateway.repositories.kubernetes import objects
from tests.fakes.cluster_host import SITE

BEGINS = datetime(2026, 1, 17, 8, tzinfo=UTC)
PROFILE = Profile("3g.20gb", 9, 3, 19968, 2, (Placement(0, 4), Placement(4, 4)))
REQUEST = SessionRequest(
    session_id="0c6a2c3e-9d0b-4a57-8a7c-53a1d6f1c8aa",
    user_id="_Ann.Lee",
    uid=20007,
    mig_profile="3g.20gb",
    created_at=BEGINS,
    expires_at=BEGINS + timedelta(hours=1),
    router_key="ssh-ed25519 AAAA router",
    host_key=KeyPair("the private host key\n", "ssh-ed25519 BBBB"),
)
DEPLOYMENT = "d9f1"
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDU9PWvkqSrV4A7f0lXQ1aB7CYcdFgbzFwYq+2f3ngfl"


def same_as_file(name: str, manifest: Any) -> bool:
    path = Path(__file__).parent / "manifests" / f"{name}.json"
    text = json.dumps(manifest, indent=2) + "\n"
    if os.environ.get("RENEW_MANIFESTS"):
        path.write_text(text)
    return path.read_text() == text


def test_a_pod_is_restricted_and_asks_for_one_slice() -> None:
    assert same_as_file("pod", objects.pod(SITE, REQUEST, PROFILE, DEPLOYMENT))


def test_a_device_claim_names_the_class_of_the_profile_and_no_selector() -> None:
    assert same_as_file("device-claim", objects.device_claim(SITE, REQUEST, "3g.20gb", DEPLOYMENT))


def test_advice_names_one_node_and_prefers_one_gpu() -> None:
    advice = objects.Advice("node-7", "GPU-3e9c")
    assert same_as_file("advised-claim", objects.device_claim(SITE, REQUEST, "3g.20gb", DEPLOYMENT, advice))
    pod = objects.pod(SITE, REQUEST, PROFILE, DEPLOYMENT, advice)
    assert same_as_file("advised-affinity", pod["spec"].pop("affinity"))
    assert pod == objects.pod(SITE, REQUEST, PROFILE, DEPLOYMENT)


def test_advice_names_other_nodes_and_prefers_the_first() -> None:
    advice = objects.Advice("node-7", "GPU-3e9c", ("node-8", "node-9"))
    pod = objects.pod(SITE, REQUEST, PROFILE, DEPLOYMENT, advice)
    assert same_as_file("advised-affinity-of-three", pod["spec"]["affinity"])


def test_a_home_belongs_to_a_uid_and_to_no_session() -> None:
    assert same_as_file("home", objects.volume_claim(SITE, REQUEST, DEPLOYMENT))


def test_a_home_has_the_class_that_the_settings_name() -> None:
    made = objects.volume_claim(replace(SITE, storage_class="fast"), REQUEST, DEPLOYMENT)
    assert made["spec"]["storageClassName"] == "fast"


def test_each_file_that_a_pod_mounts_is_in_its_secret_and_no_other_is() -> None:
    pod = objects.pod(SITE, REQUEST, PROFILE, DEPLOYMENT)
    secret = objects.secret(SITE, REQUEST, PROFILE, DEPLOYMENT)
    mounted = {
        item["key"]
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    }
    assert mounted == set(secret["data"])
    assert secret["metadata"] == pod["metadata"]


def test_the_secret_has_the_sessions_accounts_keys_and_the_end_of_its_lease() -> None:
    data = objects.secret(SITE, REQUEST, PROFILE, DEPLOYMENT)["data"]
    text = {key: b64decode(value).decode() for key, value in data.items()}
    assert "_Ann.Lee:x:20007:20007:" in text["passwd"]
    assert text["etc_authorized_keys"] == "ssh-ed25519 AAAA router\n"
    assert text["etc_ssh_host_ed25519_key"] == "the private host key\n"
    assert text["etc_lease"] == f"session={REQUEST.session_id}\nends=2026-01-17T09:00:00Z\nmax=\n"
    assert "StrictModes no\n" in text["etc_sshd_config"]
    assert "NVIDIA_VISIBLE_DEVICES" not in text["etc_sshd_config"]  # it would replace what the driver injects
    assert "3g.20gb, 19968 MiB" in text["etc_motd"]


def test_the_secret_says_how_programs_in_the_session_call_the_api() -> None:
    door = objects.Door("http://10.96.0.7:80", "session-0c6a.mac")
    made = objects.secret(SITE, REQUEST, PROFILE, DEPLOYMENT, door)["data"]["etc_door"]
    assert b64decode(made).decode() == "http://10.96.0.7:80\nsession-0c6a.mac\n"
    assert objects.secret(SITE, REQUEST, PROFILE, DEPLOYMENT)["data"]["etc_door"] == ""


def test_a_session_writes_no_core_dumps_although_kubernetes_has_no_such_limit() -> None:
    interpreter, line, *_ = objects.files(SITE, REQUEST, PROFILE)["etc/start"].splitlines()
    assert interpreter == "#!/bin/sh"
    assert line.startswith("prlimit --core=1 --pid $$")


def test_a_pod_is_never_deleted_without_grace() -> None:
    assert objects.GRACE_SECONDS == 1
    pod = objects.pod(SITE, REQUEST, PROFILE, DEPLOYMENT)
    assert pod["spec"]["terminationGracePeriodSeconds"] == 1


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        ("1g.5gb", "mig-1g.5gb"),
        ("1g.10gb+me", "mig-1g.10gb-me"),
        ("1g.24gb-me", "mig-1g.24gb-no-me"),
        ("1g.5gb+ME", "mig-1g.5gb-me"),
    ],
)
def test_a_class_has_a_name_that_kubernetes_accepts(profile: str, name: str) -> None:
    assert objects.device_class_of(SITE, profile) == name


@pytest.mark.parametrize("user_id", ["_ann", "Ann.Lee", "a_b", "___"])
def test_a_pod_of_any_user_has_a_valid_host_name(user_id: str) -> None:
    pod = objects.pod(SITE, replace(REQUEST, user_id=user_id), PROFILE, DEPLOYMENT)
    label = pod["spec"]["hostname"]
    assert label.isascii()
    assert label.islower()
    assert not label.startswith("-")
    assert "_" not in label


def test_cpus_are_limited_if_the_settings_say_so() -> None:
    container = objects.pod(replace(SITE, cpus=1.5), REQUEST, PROFILE, DEPLOYMENT)["spec"]["containers"][0]
    assert container["resources"]["limits"]["cpu"] == "1500m"


def test_memory_follows_the_memory_slices_of_the_profile() -> None:
    small = replace(PROFILE, placements=(Placement(0, 1),))
    amounts = [
        objects.pod(SITE, REQUEST, profile, DEPLOYMENT)["spec"]["containers"][0]["resources"]["requests"]
        for profile in (small, PROFILE)
    ]
    assert [each["memory"] for each in amounts] == ["16384Mi", "65536Mi"]


def test_a_route_is_a_pipe_with_the_users_keys_and_a_secret_with_the_routers() -> None:
    router = make_pair()
    route = Pipe("0c6a", "ann", (PUBLIC,), "10.244.0.7", 2222, router.private, PUBLIC)
    secret, pipe = objects.pipe(SITE, route, DEPLOYMENT)
    assert b64decode(secret["data"]["ssh-privatekey"]).decode() == router.private
    assert (secret["type"], secret["metadata"]["namespace"]) == ("kubernetes.io/ssh-auth", "gpu-routes")
    assert same_as_file("pipe", pipe)


def test_a_route_without_keys_of_the_user_or_of_the_session_cannot_be_made() -> None:
    private = make_pair().private
    for keys, host_key in (((), PUBLIC), ((PUBLIC,), "")):
        with pytest.raises(ValueError, match="of the pipe is invalid"):
            objects.pipe(SITE, Pipe("0c6a", "ann", keys, "10.244.0.7", 2222, private, host_key), DEPLOYMENT)
