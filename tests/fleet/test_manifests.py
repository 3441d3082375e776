"""The manifests of docker/kubernetes on a real API server: each overlay applies."""

import pytest

from tests.fleet import manifests
from tests.fleet.admission_cases import IMAGE
from tests.fleet.control_plane import ControlPlane
from tests.fleet.manifests import MANIFESTS


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_each_overlay_applies_to_a_cluster(plane: ControlPlane, overlay: str) -> None:
    printed = manifests.apply(plane, MANIFESTS / "overlays" / overlay)
    for expected in ("deployment.apps/gateway", "deployment.apps/router", "job.batch/migrate"):
        assert f"{expected} serverside-applied" in printed


def test_the_list_of_images_is_what_the_settings_name() -> None:
    settings = (MANIFESTS / "base/gateway.env").read_text()
    assert f"GATEWAY_IMAGE={IMAGE}\n" in settings
