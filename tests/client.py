"""Flask's test client, typed for tests, and what many tests ask of a gateway in their own process."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway.app import Gateway


class Answer(TestResponse):
    """One response. `json` is its body: a test that reads it fails where there is none."""

    @property
    def json(self) -> Any:
        return super().json


class ApiClient(FlaskClient):
    """Asks `application`, and gets an `Answer`."""

    def __init__(self, application: Flask) -> None:
        super().__init__(application, Answer)

    def open(self, *args: Any, **kwargs: Any) -> Answer:
        answer = super().open(*args, **kwargs)
        assert isinstance(answer, Answer)
        return answer

    def get(self, *args: Any, **kwargs: Any) -> Answer:
        return self.open(*args, method="GET", **kwargs)

    def post(self, *args: Any, **kwargs: Any) -> Answer:
        return self.open(*args, method="POST", **kwargs)

    def put(self, *args: Any, **kwargs: Any) -> Answer:
        return self.open(*args, method="PUT", **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> Answer:
        return self.open(*args, method="DELETE", **kwargs)


class AsksApi:
    """Something with a `gateway`, which tests ask by its API."""

    gateway: Gateway

    def ask(self, method: str, path: str, **body: Any) -> Answer:
        return ApiClient(self.gateway.flask).open(path, method=method, json=body or None)

    def open(self, user_id: str = "ann", profile: str = "3g.20gb", **more: Any) -> str:
        """Create a session and return its id."""
        answer = self.ask("POST", "/sessions", user_id=user_id, mig_profile=profile, **more)
        assert answer.status_code == 201, answer.json
        return str(answer.json["session_id"])

    def close(self, session_id: str) -> None:
        assert self.ask("DELETE", f"/sessions/{session_id}").status_code == 204
