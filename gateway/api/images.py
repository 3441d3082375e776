"""/images: what sessions can run on."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.endpoints import describes
from gateway.api.responses import ImagesResponse
from gateway.api.services import services

routes = Blueprint("images", __name__)

_response = ImagesResponse()


@routes.get("/images")
@describes({200: ImagesResponse})
def list_all() -> ResponseReturnValue:
    """List the images for sessions, and whether each is ready."""
    return {**_response.dump({"images": services().images.list()})}
