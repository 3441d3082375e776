"""The SSH routes as Pipe objects, which SSHPiper and `gateway mirror-pipes` read.

A Secret beside each Pipe has the router's key. The Secret is made first and removed last.
"""

import builtins
import math
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, suppress

from gateway.domain.pipe import Pipe, UserMatch
from gateway.errors import KubernetesUnavailable, PipesUnavailable
from gateway.failpoints import reach
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.api import PIPES, PODS, SECRETS, AlreadyExists, Api, Kind, Object
from gateway.repositories.kubernetes.locks import Locks
from gateway.repositories.kubernetes.objects import (
    DEPLOYMENT,
    MANAGED,
    PRIVATE_KEY,
    ROUTES,
    SESSION,
    Site,
    name_of,
)

_AT_ONCE = 100  # routes that are compared again while nobody else publishes them
_FOREIGN_SECONDS = 5.0  # after which a new Pipe of somebody else counts


class ClusterPipes:
    """`deployment` returns the id of the database: other gateways' routes in the namespace are left alone.
    `known` returns those of some session ids that the database has a record of."""

    def __init__(
        self,
        api: Api,
        site: Site,
        locks: Locks,
        deployment: Callable[[], str],
        known: Callable[[Collection[str]], set[str]] = set,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._site = site
        self._locks = locks
        self._deployment = deployment
        self._known = known
        self._now = now
        self._foreign: tuple[float, Sequence[UserMatch]] = (-math.inf, ())

    def update(self, wanted: Callable[[], Pipe | None]) -> None:
        """Publish the pipe that `wanted` returns, in place of the one that its session had. It is called
        twice: the second time while no other process can publish a route of this session, so what it read
        then is still true."""
        first = wanted()
        if first is None:
            return
        with self._locks.hold(_lock_of(first.session_id)):
            if pipe := wanted():
                self._publish(pipe)

    def remove(self, session_id: str) -> None:
        with self._locks.hold(_lock_of(session_id)):
            self._remove(session_id)

    def list(self) -> list[Pipe]:
        """Return the routes as published. Raises `PipesUnavailable` for one that is damaged."""
        return [pipe_of(found, keys) for found, keys in self._found()]

    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None:
        """Publish exactly the pipes that `wanted` returns.

        All routes are compared first while others publish, because it takes seconds to list ten thousand.
        Those that differ are compared again, some at a time, while no other process can publish them.
        The route of a session that runs without a record stays: an older database was put back, and `gateway
        recover` needs the route."""
        published, pipes = self._published(), _by_session(wanted())
        different = {
            id
            for id in published.keys() | pipes.keys()
            if published.get(id) != pipes.get(id) or id not in pipes
        }
        ordered = sorted(different)
        for start in range(0, len(ordered), _AT_ONCE):
            self._replace(ordered[start : start + _AT_ONCE], wanted)

    def _replace(self, session_ids: Sequence[str], wanted: Callable[[], Iterable[Pipe]]) -> None:
        with ExitStack() as locks:
            for session_id in session_ids:
                locks.enter_context(self._locks.hold(_lock_of(session_id)))
            pipes = _by_session(wanted())
            surplus = set(session_ids) - pipes.keys()
            for session_id in surplus - self._unrecorded(surplus):
                self._remove(session_id)
            for session_id in set(session_ids) & pipes.keys():
                if self._published_of(session_id) != pipes[session_id]:
                    self._publish(pipes[session_id])

    def routed_elsewhere(self, users: Iterable[str]) -> set[str]:
        """Return those of `users` whom a Pipe of somebody else matches: SSHPiper may take either. The server
        looks at all Pipes for that, so it is asked at most every 5 s."""
        at, matches = self._foreign
        if self._now() - at >= _FOREIGN_SECONDS:
            at, foreign = self._now(), self._api.list(PIPES, self._site.routes, without=MANAGED)
            matches = [match for found in foreign for match in _matches(found)]
            self._foreign = at, matches
        return {user for user in users if any(match.matches(user) for match in matches)}

    def version(self) -> Hashable:
        """No process lists all Pipes each second: the reconciler compares them once a minute."""
        return None

    def check(self) -> None:
        """Raise `KubernetesUnavailable` if the routes cannot be read."""
        self._api.get(PIPES, "none", self._site.routes)

    def _publish(self, pipe: Pipe) -> None:
        for manifest, kind in zip(
            objects.pipe(self._site, pipe, self._deployment()), (SECRETS, PIPES), strict=True
        ):
            try:
                self._api.create(manifest)
            except AlreadyExists:
                part = "data" if kind is SECRETS else "spec"
                self._api.patch(kind, name_of(pipe.session_id), {part: manifest[part]}, self._site.routes)
            if kind is SECRETS:
                reach("after-router-key-create", KubernetesUnavailable)

    def _remove(self, session_id: str) -> None:
        for kind in (PIPES, SECRETS):
            self._api.delete(kind, name_of(session_id), self._site.routes)

    def _unrecorded(self, session_ids: Set[str]) -> set[str]:
        unknown = session_ids - self._known(session_ids)
        return {id for id in unknown if self._api.get(PODS, name_of(id), self._site.sessions)}

    def _published(self) -> Mapping[str, Pipe | None]:
        """Return the routes by the ids of their sessions; None for a damaged one."""
        return {
            found["metadata"]["labels"].get(SESSION, ""): _undamaged(found, keys)
            for found, keys in self._found()
        }

    def _published_of(self, session_id: str) -> Pipe | None:
        name = name_of(session_id)
        found = self._api.get(PIPES, name, self._site.routes)
        secret = self._api.get(SECRETS, name, self._site.routes)
        return _undamaged(found, {name: secret} if secret else {}) if found else None

    def _found(self) -> Iterator[tuple[Object, Mapping[str, Object]]]:
        keys = keys_by_name(self._own(SECRETS))
        return ((found, keys) for found in self._own(PIPES))

    def _own(self, kind: Kind) -> Iterable[Object]:
        return self._api.list(kind, self._site.routes, {**ROUTES, DEPLOYMENT: self._deployment()})


def _by_session(pipes: Iterable[Pipe]) -> Mapping[str, Pipe]:
    return {pipe.session_id: pipe for pipe in pipes}


def _undamaged(found: Object, keys: Mapping[str, Object]) -> Pipe | None:
    try:
        return pipe_of(found, keys)
    except PipesUnavailable:
        return None


def keys_by_name(secrets: Iterable[Object]) -> dict[str, Object]:
    """Return what a Pipe needs of its Secret, by the names of the Secrets. The rest would be most of it."""
    return {found["metadata"]["name"]: {"data": found.get("data")} for found in secrets}


def pipe_of(found: Object, keys: Mapping[str, Object]) -> Pipe:
    """Return the route of a Pipe and of its Secret, which `keys` has by name. Raises `PipesUnavailable` for
    one without keys: SSHPiper would let anybody in, or trust any host."""
    return pipe_named(found, keys, (found["metadata"].get("labels") or {}).get(SESSION))


def pipe_named(found: Object, keys: Mapping[str, Object], session_id: str | None) -> Pipe:
    """As `pipe_of`, with this id."""
    name = found["metadata"]["name"]
    target = dict(found["spec"].get("to") or {})
    secret = keys.get((target.pop("private_key_secret", None) or {}).get("name", "")) or {}
    entry = {
        "session_id": session_id,
        "from": found["spec"].get("from"),
        "to": {**target, "private_key_data": (secret.get("data") or {}).get(PRIVATE_KEY)},
    }
    try:
        return Pipe.of(entry)
    except ValueError as error:
        raise PipesUnavailable(f"The Pipe {name} is damaged, or its Secret is missing. {error}") from None


def _matches(found: Object) -> builtins.list[UserMatch]:
    """An invalid expression matches nobody."""
    matches = []
    for source in (found.get("spec") or {}).get("from") or ():
        with suppress(ValueError):
            matches.append(UserMatch.of(source))
    return matches


def _lock_of(session_id: str) -> str:
    return f"the route of {session_id}"
