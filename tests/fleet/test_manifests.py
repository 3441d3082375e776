"""The manifests of docker/kubernetes on a real API server: each overlay applies."""

from pathlib import Path

import pytest

from tests.fleet import manifests
from tests.fleet.admission_cases import IMAGE
from tests.fleet.control_plane import ControlPlane
from tests.fleet.manifests import MANIFESTS, write_overlay


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_each_overlay_applies_to_a_cluster(plane: ControlPlane, overlay: str) -> None:
    printed = manifests.apply(plane, MANIFESTS / "overlays" / overlay)
    for expected in ("deployment.apps/gateway", "deployment.apps/router", "job.batch/migrate"):
        assert f"{expected} serverside-applied" in printed


def test_the_component_for_egress_applies_to_a_cluster(plane: ControlPlane, tmp_path: Path) -> None:
    printed = manifests.apply(plane, write_overlay(tmp_path / "overlay", "egress"))
    for expected in ("deployment.apps/egress-proxy", "service/egress-proxy", "deployment.apps/gateway"):
        assert f"{expected} serverside-applied" in printed
    assert "Warning" not in printed


def test_the_list_of_images_is_what_the_settings_name() -> None:
    settings = (MANIFESTS / "base/gateway.env").read_text()
    assert f"GATEWAY_IMAGE={IMAGE}\n" in settings
