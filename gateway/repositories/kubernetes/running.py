"""Makes the objects of a session in their order, waits for its pod, and removes them."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.domain.board import Board
from gateway.domain.mig import Profile
from gateway.domain.plan import SessionRequest
from gateway.errors import ContainerFailed, KubernetesUnavailable, NoCapacity, SliceBusy, WorkspaceRefused
from gateway.failpoints import reach
from gateway.repositories.files.session_contents import EgressProxy
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.api import (
    DEVICE_CLAIMS,
    PODS,
    SECRETS,
    VOLUME_CLAIMS,
    AlreadyExists,
    Api,
    Kind,
    Object,
)
from gateway.repositories.kubernetes.facts import moment
from gateway.repositories.kubernetes.objects import GRACE_SECONDS, USER, Advice, Door, Site, home_of, name_of
from gateway.repositories.kubernetes.pod_facts import PodFacts

_REMOVAL_SECONDS = 30.0
_WATCH_SECONDS = 10
_PAUSE_SECONDS = 0.2  # after a failure of the API


@dataclass(frozen=True)
class Running:
    """`deployment` returns the id of the database."""

    api: Api
    site: Site
    deployment: Callable[[], str]
    start_timeout_seconds: float

    def start(
        self,
        request: SessionRequest,
        profile: Profile,
        advice: Advice | None = None,
        door: Door | None = None,
        board: Board | None = None,
        proxy: EgressProxy | None = None,
    ) -> PodFacts:
        """Make the objects, and return the pod once its container runs. Advice that does not hold any more
        costs one more attempt. Raises as `wait`."""
        deployment = self.deployment()
        self._ensure_home(request, deployment)
        reach("after-home-create")
        self._create(SECRETS, objects.secret(self.site, request, profile, deployment, door, board, proxy))
        reach("after-secret-create")
        if advice:
            try:
                return self._run(request, profile, deployment, advice)
            except NoCapacity:
                self._clear(request.session_id)
        return self._run(request, profile, deployment)

    def _run(
        self, request: SessionRequest, profile: Profile, deployment: str, advice: Advice | None = None
    ) -> PodFacts:
        claim = objects.device_claim(self.site, request, profile.name, deployment, advice)
        self._create(DEVICE_CLAIMS, claim)
        reach("after-device-claim-create")
        made = self._create(PODS, objects.pod(self.site, request, profile, deployment, advice))
        reach("after-pod-create")
        return self.wait(request.session_id, profile.name, made["metadata"].get("resourceVersion"))

    def wait(self, session_id: str, profile: str, version: str | None = None) -> PodFacts:
        """Return the pod once its container runs. It is known as it was at its `version`. Raises `NoCapacity`
        if no node has room for it, and `ContainerFailed` if it cannot start, or not in time."""
        deadline, pod = time.monotonic() + self.start_timeout_seconds, None
        for found in self._pods(session_id, deadline, version):
            if found is None:
                raise ContainerFailed("The session's pod was deleted while it started.")
            pod = PodFacts.of(found)
            if pod.refusal:
                raise NoCapacity(f"No node has room for a {profile} now: {pod.refusal}", mig_profile=profile)
            if pod.failure:
                raise ContainerFailed(f"The session's pod cannot start: {pod.failure}")
            if pod.is_running and pod.address:
                return pod
        where = f"on the node {pod.node}" if pod and pod.node else "on no node yet"
        where += f": {pod.waits_for}" if pod and pod.waits_for else ""
        raise ContainerFailed(
            f"The session's pod did not run within {self.start_timeout_seconds:g} s, {where}."
        )

    def remove(self, session_id: str) -> None:
        """Remove the pod, and then its claim: the slice of a claim that is gone may be somebody else's."""
        self._remove_pod(session_id)
        reach("after-pod-remove")
        self.api.delete(DEVICE_CLAIMS, name_of(session_id), self.site.sessions)
        reach("after-device-claim-remove")

    def _clear(self, session_id: str) -> None:
        """Remove a pod that has no node, and its claim, so that both can be made again."""
        self._remove_pod(session_id)
        self.api.delete(DEVICE_CLAIMS, name_of(session_id), self.site.sessions)
        self._await_removal(DEVICE_CLAIMS, name_of(session_id))

    def _remove_pod(self, session_id: str) -> None:
        self.api.delete(PODS, name_of(session_id), self.site.sessions, GRACE_SECONDS)
        self._await_removal(PODS, name_of(session_id))

    def forget(self, session_id: str) -> None:
        self.api.delete(SECRETS, name_of(session_id), self.site.sessions)
        reach("after-secret-remove")

    def _ensure_home(self, request: SessionRequest, deployment: str) -> None:
        """The uid is the user's for good, so a home of another user's is from another database. Most users
        have a home already."""
        found = self.api.get(VOLUME_CLAIMS, home_of(request.uid), self.site.sessions)
        if found is None:
            try:
                self.api.create(objects.volume_claim(self.site, request, deployment))
            except AlreadyExists:
                found = self.api.get(VOLUME_CLAIMS, home_of(request.uid), self.site.sessions)
        owner = ((found or {}).get("metadata", {}).get("annotations") or {}).get(USER)
        if owner not in (None, request.user_id):
            raise WorkspaceRefused(
                f"The volume claim {home_of(request.uid)} belongs to {owner}, not to {request.user_id}: "
                "an administrator must see which database the cluster's homes belong to."
            )

    def _create(self, kind: Kind, manifest: Object) -> Object:
        """An object of this name is left from an earlier attempt to open the same session."""
        try:
            return self.api.create(manifest)
        except AlreadyExists:
            name = manifest["metadata"]["name"]
            self.api.delete(kind, name, self.site.sessions, GRACE_SECONDS if kind is PODS else None)
            self._await_removal(kind, name)
            return self.api.create(manifest)

    def _pods(self, session_id: str, deadline: float, version: str | None) -> Iterator[Object | None]:
        """Report the pod each time that it changes after `version`, until the deadline; None once it is
        deleted."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                for event, found in self.api.watch(
                    PODS,
                    self.site.sessions,
                    name=name_of(session_id),
                    after=version,
                    seconds=math.ceil(left),
                ):
                    yield None if event == "DELETED" else found
            except KubernetesUnavailable:
                if time.monotonic() + _PAUSE_SECONDS >= deadline:
                    raise
                time.sleep(_PAUSE_SECONDS)
            version = None  # the server may have forgotten it

    def _await_removal(self, kind: Kind, name: str) -> None:
        """Wait until the object is gone. It has a finaliser, or its node stops its container. Nobody waits
        for a silent node, or again for a removal that takes long: one node would hold up all other ends."""
        deadline = time.monotonic() + _REMOVAL_SECONDS
        while found := self.api.get(kind, name, self.site.sessions):
            node = (found.get("spec") or {}).get("nodeName")
            if kind is PODS and PodFacts.of(found).is_silent:
                raise SliceBusy(f"The {kind} {name} is not gone: its node {node} does not answer.")
            if time.monotonic() > deadline or _is_going_long(found):
                where = f"; its node {node} has not reported that it stopped" if node else ""
                raise SliceBusy(f"The {kind} {name} is not gone after {_REMOVAL_SECONDS:g} s{where}.")
            version = found["metadata"].get("resourceVersion")
            changes = self.api.watch(
                kind, self.site.sessions, name=name, after=version, seconds=_WATCH_SECONDS
            )
            if any(event == "DELETED" for event, _ in changes):
                return


def _is_going_long(found: Object) -> bool:
    """By the wall clock, which NTP keeps."""
    since = moment(found["metadata"].get("deletionTimestamp"))
    return since is not None and datetime.now(UTC) - since > timedelta(seconds=_REMOVAL_SECONDS)
