"""Named images with real Docker: a session keeps the image that its tag had."""

import os
from collections.abc import Iterator
from io import BytesIO

import pytest

from gateway.repositories.docker.client import Docker
from tests import own
from tests.whole_gateway import Gateway, running

BASE = os.environ.get("GATEWAY_IMAGE", "gpu-workspace")
TAG = own.name("moving-image")


def build(text: str) -> str:
    recipe = BytesIO(f'FROM {BASE}\nENV WHICH="{text}"\n'.encode())
    image, _ = Docker().client.images.build(
        fileobj=recipe, tag=TAG, network_mode="none", rm=True, forcerm=True
    )
    return str(image.id)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    gateway.settings["GATEWAY_IMAGES"] = f"moving={TAG}"
    build("first")
    with running(gateway):
        yield gateway
    Docker().client.images.remove(TAG, force=True)


def test_a_session_keeps_its_image_when_the_tag_moves(gateway: Gateway) -> None:
    first, second = own.user("user123"), own.user("user456")
    gateway.create(first, image="moving")
    build("second")
    gateway.create(second, image="moving")
    assert gateway.in_session(first, "echo $WHICH").strip() == "first"
    assert gateway.in_session(second, "echo $WHICH").strip() == "second"
    gateway.kill("serve")
    gateway.serve()  # the reconciler compares everything at the start
    assert gateway.in_session(first, "echo $WHICH").strip() == "first"


def test_an_image_is_checked_by_its_name(gateway: Gateway) -> None:
    done = gateway.run("image", "check", "moving")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{TAG} is fit for sessions"
