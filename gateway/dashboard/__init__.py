"""The web pages under /ui: the API's answers as pages, and forms for what the API can do.

A page shows and does only what the API allows its caller: each page has the rule of one endpoint of the API
(`gateway.domain.permissions`), and gets its content from the views of the API.
"""

from flask import Flask

from gateway.dashboard import access, forms, pages, polling, rendering, users, webhooks
from gateway.dashboard.blueprint import routes
from gateway.domain.words import Words

__all__ = ["access", "forms", "install", "pages", "users", "webhooks"]


def install(app: Flask, words: Words) -> None:
    """Serve the pages. `words` has the time zone of the times that they show."""
    rendering.install(app, words)
    polling.install(app)
    app.register_blueprint(routes)
