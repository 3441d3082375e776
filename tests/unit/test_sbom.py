"""The bill of materials of the gateway's image."""

import json
from typing import Any

from tests.sbom import bill

IMAGE_ID = "sha256:e1a9e45fc637"
DEBIAN = ["nftables 1.1.3-1 amd64", "libc6 2.41-12 amd64"]
PYTHON: list[dict[str, Any]] = [
    {"metadata": {"name": "Flask", "version": "3.1.2", "license_expression": "BSD-3-Clause"}},
    {"metadata": {"name": "ruamel_yaml", "version": "0.18.1"}},
]


def test_each_package_has_its_version_and_its_package_url() -> None:
    written = json.loads(bill(IMAGE_ID, DEBIAN, PYTHON))
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    assert written["metadata"]["component"] == {
        "bom-ref": IMAGE_ID,
        "name": "gpu-ssh-gateway",
        "type": "container",
        "version": IMAGE_ID,
    }
    assert {component["purl"] for component in written["components"]} == {
        "pkg:deb/debian/nftables@1.1.3-1?arch=amd64",
        "pkg:deb/debian/libc6@2.41-12?arch=amd64",
        "pkg:pypi/flask@3.1.2",
        "pkg:pypi/ruamel-yaml@0.18.1",
    }
    [flask] = [component for component in written["components"] if component["name"] == "Flask"]
    assert flask["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]


def test_the_same_image_has_the_same_bill() -> None:
    assert bill(IMAGE_ID, DEBIAN, PYTHON) == bill(IMAGE_ID, reversed(DEBIAN), reversed(PYTHON))
    assert bill("sha256:another", DEBIAN, PYTHON) != bill(IMAGE_ID, DEBIAN, PYTHON)
