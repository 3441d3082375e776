"""A small client of the API of Kubernetes, for the tests' own objects. Objects are plain dictionaries."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import requests

Object = dict[str, Any]

_SECONDS = 30
_GROUPS = {"v1": "/api/v1"}


class Refused(AssertionError):
    """The API answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """`collection` is such as `v1/nodes` or `resource.k8s.io/v1/deviceclasses`."""

    def __init__(self, url: str, authority: str, token: str, acting_as: str | None = None) -> None:
        """`acting_as` is another user, whose rights count; the token must be an administrator's."""
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False  # REQUESTS_CA_BUNDLE would take the place of the authority
        self._session.verify = authority
        self._session.headers["Authorization"] = f"Bearer {token}"
        if acting_as:
            self._session.headers["Impersonate-User"] = acting_as

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Object:
        response = self._session.request(
            method,
            f"{self._url}{path}",
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **headers},
            timeout=_SECONDS,
        )
        if not response.ok:
            raise Refused(response.status_code, _message(response))
        answer: Object = response.json() if response.content else {}
        return answer

    def get(self, collection: str, name: str, namespace: str | None = None) -> Object | None:
        try:
            return self.ask("GET", f"{_path(collection, namespace)}/{name}")
        except Refused as error:
            if error.status != requests.codes.not_found:
                raise
            return None

    def list(self, collection: str, namespace: str | None = None) -> list[Object]:
        found: list[Object] = self.ask("GET", _path(collection, namespace))["items"]
        return found

    def create(self, collection: str, manifest: Mapping[str, Any]) -> Object:
        return self.ask("POST", _path(collection, manifest["metadata"].get("namespace")), manifest)

    def change(self, collection: str, name: str, change: Object, namespace: str | None = None) -> Object:
        """Merge the change into the object; `name` may end with `/status`."""
        merge = {"Content-Type": "application/merge-patch+json"}
        return self.ask("PATCH", f"{_path(collection, namespace)}/{name}", change, **merge)

    def delete(
        self, collection: str, name: str, namespace: str | None = None, grace: int | None = None
    ) -> None:
        """Begin to remove the object. One that does not exist is no error."""
        query = "" if grace is None else f"?gracePeriodSeconds={grace}"
        try:
            self.ask("DELETE", f"{_path(collection, namespace)}/{name}{query}")
        except Refused as error:
            if error.status != requests.codes.not_found:
                raise

    def watch(self, collection: str, seconds: int = 30) -> Iterator[tuple[str, Object]]:
        """Report the objects that exist, and then every change."""
        path = f"{_path(collection, None)}?watch=true&timeoutSeconds={seconds}"
        with self._session.get(f"{self._url}{path}", stream=True, timeout=seconds + _SECONDS) as response:
            if not response.ok:
                raise Refused(response.status_code, _message(response))
            for line in response.iter_lines(chunk_size=None):  # as it comes
                event = json.loads(line)
                yield event["type"], event["object"]


def _path(collection: str, namespace: str | None) -> str:
    version, _, plural = collection.rpartition("/")
    base = _GROUPS.get(version, f"/apis/{version}")
    return f"{base}/namespaces/{namespace}/{plural}" if namespace else f"{base}/{plural}"


def _message(response: requests.Response) -> str:
    try:
        return str(response.json().get("message"))
    except ValueError:
        return response.text
