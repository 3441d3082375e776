"""A bill of materials of the gateway's image as CycloneDX JSON: `python -m tests.sbom FILE`, by `make sbom`.

The image itself is asked for its packages: Debian's by dpkg, Python's by pip.
"""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

IMAGE = "gpu-ssh-gateway"
_DPKG = ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${Architecture}\\n"]
_PIP = ["/opt/venv/bin/pip", "inspect", "--local"]
_NAMESPACE = uuid.UUID("6f1c2a52-3f9e-4c8e-9a57-2d6f3b1f0c11")


def main(path: Path) -> int:
    """Write the bill to `path`. Return 1 with a line on standard error if the image is missing."""
    found = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Id}}", IMAGE], capture_output=True, text=True
    )
    if found.returncode:
        print(f"sbom: there is no image {IMAGE}: run docker/build-images gateway.", file=sys.stderr)
        return 1
    debian, python = _ask(_DPKG), json.loads(_ask(_PIP))
    path.write_text(bill(found.stdout.strip(), debian.splitlines(), python["installed"]))
    print(
        f"{path}: {len(debian.splitlines())} Debian and {len(python['installed'])} Python packages of {IMAGE}"
    )
    return 0


def _ask(command: list[str]) -> str:
    run = ["docker", "run", "--rm", "--network=none", IMAGE, *command]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout


def bill(image_id: str, debian: Iterable[str], python: Iterable[Mapping[str, Any]]) -> str:
    """Return the bill: the same text for the same image. `debian` are lines of `NAME VERSION ARCHITECTURE`,
    `python` are the packages as `pip inspect` lists them."""
    bom = Bom(serial_number=uuid.uuid5(_NAMESPACE, image_id))
    bom.metadata.component = Component(
        name=IMAGE, version=image_id, type=ComponentType.CONTAINER, bom_ref=image_id
    )
    bom.components.update(_debian(debian))
    bom.components.update(_python(python))
    bom.register_dependency(bom.metadata.component, bom.components)
    written: dict[str, Any] = json.loads(
        make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    )
    del written["metadata"]["timestamp"]
    return json.dumps(written, indent=2) + "\n"


def _debian(lines: Iterable[str]) -> Iterator[Component]:
    for line in lines:
        name, version, architecture = line.split()
        purl = PackageURL("deb", "debian", name, version, {"arch": architecture})
        yield Component(name=name, version=version, purl=purl, bom_ref=purl.to_string())


def _python(packages: Iterable[Mapping[str, Any]]) -> Iterator[Component]:
    for package in packages:
        about = package["metadata"]
        purl = PackageURL("pypi", None, about["name"].lower().replace("_", "-"), about["version"])
        licence = about.get("license_expression")
        yield Component(
            name=about["name"],
            version=about["version"],
            purl=purl,
            bom_ref=purl.to_string(),
            licenses=[LicenseFactory().make_from_string(licence)] if licence else None,
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
