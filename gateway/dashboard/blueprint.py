"""The blueprint of the web pages."""

from flask import Blueprint

from gateway.api.authorisation import PAGES

routes = Blueprint(PAGES, __name__, url_prefix="/ui", template_folder="templates", static_folder="static")
