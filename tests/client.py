"""Flask's test client, typed for tests."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse


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
