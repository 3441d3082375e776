"""Notices for users without a session, as ConfigMaps.

`gateway mirror-pipes` writes them as files beside the pipe file of an embedded router.
"""

import hashlib
from collections.abc import Callable

from gateway.domain.notice import Notice
from gateway.repositories.kubernetes.api import CONFIG_MAPS, AlreadyExists, Api, Object
from gateway.repositories.kubernetes.locks import Locks
from gateway.repositories.kubernetes.objects import CONTENT, DEPLOYMENT, MANAGED, USER

NOTICES = {**MANAGED, CONTENT: "notice"}
_TEXT = "notice"


class ClusterNotices:
    """`deployment` returns the id of the database: the notices of other gateways are left alone."""

    def __init__(self, api: Api, namespace: str, locks: Locks, deployment: Callable[[], str]) -> None:
        self._api = api
        self._namespace = namespace
        self._locks = locks
        self.deployment = deployment

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None:
        """Publish the notice that `wanted` returns; None removes the user's notice. It is called while no
        other process can publish one for this user."""
        with self._locks.hold(f"the notice of {user_id}"):
            if notice := wanted():
                self._publish(self._manifest(user_id, notice))
            else:
                self._api.delete(CONFIG_MAPS, self._name_of(user_id), self._namespace)

    def get(self, user_id: str) -> Notice | None:
        """Return the user's notice; None if there is none, or if it is damaged."""
        return notice_of(self._api.get(CONFIG_MAPS, self._name_of(user_id), self._namespace))

    def all(self) -> dict[str, Notice | None]:
        labels = {**NOTICES, DEPLOYMENT: self.deployment()}
        found = self._api.list(CONFIG_MAPS, self._namespace, labels)
        return {user_of(each): notice_of(each) for each in found}

    def _publish(self, manifest: Object) -> None:
        try:
            self._api.create(manifest)
        except AlreadyExists:
            change = {"data": manifest["data"]}
            self._api.patch(CONFIG_MAPS, manifest["metadata"]["name"], change, self._namespace)

    def _manifest(self, user_id: str, notice: Notice) -> Object:
        return {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.name,
            "metadata": {
                "name": self._name_of(user_id),
                "namespace": self._namespace,
                "labels": {**NOTICES, DEPLOYMENT: self.deployment()},
                "annotations": {USER: user_id},
            },
            "data": {_TEXT: notice.dump().decode()},
        }

    def _name_of(self, user_id: str) -> str:
        return f"n-{name_part(self.deployment(), user_id)}"


def name_part(deployment: str, user_id: str) -> str:
    """Return what stands for the user in the name of an object, which has fewer characters than user ids."""
    return hashlib.sha256(f"{deployment}/{user_id}".encode()).hexdigest()[:40]


def user_of(found: Object) -> str:
    return str((found["metadata"].get("annotations") or {}).get(USER, ""))


def notice_of(found: Object | None) -> Notice | None:
    """Return the notice of a ConfigMap; None if it has none that is valid."""
    try:
        return Notice.load(((found or {}).get("data") or {}).get(_TEXT, "").encode())
    except ValueError:
        return None
