"""The ResourceSlices of a cluster: which devices the drivers of its nodes publish."""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.api import SLICES, Api, Object
from gateway.repositories.kubernetes.facts import Pool

_MOST_CHANGED = 100  # slices; to read all of them is quicker for more


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is known of a slice. `node` is None for one that several nodes share."""

    version: str | None
    node: str | None


class ClusterSlices:
    """`pools` is what was read last, by the names of the pools. Only the slices of a node that has changed
    one are read again: a thousand nodes publish 250 MB."""

    def __init__(self, api: Api) -> None:
        self.pools: Mapping[str, Pool] = {}
        self._api = api
        self._version: str | None = None
        self._pieces: Mapping[str, _Piece] = {}  # by the names of the slices

    def have_changed(self) -> bool:
        """Whether a slice has changed since `read`. The answer takes a second if none has."""
        return self._version is None or self._api.has_changed(SLICES, self._version)

    def read(self) -> None:
        """Renew `pools`, which stays the same object if nothing has changed. After a failure nothing is
        renewed. Raises `KubernetesUnavailable`."""
        version = self._api.version(SLICES)
        nodes = self._changed_nodes() if self._version else {None}
        if None in nodes:
            self._renew({}, {}, [None])
        elif nodes:
            pieces = {name: piece for name, piece in self._pieces.items() if piece.node not in nodes}
            pools = {name: pool for name, pool in self.pools.items() if pool.node not in nodes}
            self._renew(pieces, pools, [{"spec.nodeName": str(node)} for node in nodes])
        self._version = version

    def _renew(
        self,
        pieces: dict[str, _Piece],
        pools: dict[str, Pool],
        selections: Iterable[Mapping[str, str] | None],
    ) -> None:
        """Add the slices with each selection of fields."""
        for fields in selections:
            pools |= facts.pools(_noted(self._api.list(SLICES, fields=fields), pieces))
        self._pieces, self.pools = pieces, pools

    def _changed_nodes(self) -> Set[str | None]:
        """Return the nodes whose slices are not those that were read. They include None if all slices must be
        read again."""
        seen = (each["metadata"] for each in self._api.metadata(SLICES))
        versions = {metadata["name"]: metadata.get("resourceVersion") for metadata in seen}
        gone = [piece.node for name, piece in self._pieces.items() if name not in versions]
        changed = [name for name, version in versions.items() if self._version_of(name) != version]
        if len(gone) + len(changed) > _MOST_CHANGED:
            return {None}
        before = [self._pieces[name].node for name in changed if name in self._pieces]
        now = [_node(found) for name in changed if (found := self._api.get(SLICES, name))]
        return {*gone, *before, *now}

    def _version_of(self, name: str) -> str | None:
        piece = self._pieces.get(name)
        return piece.version if piece else None


def _noted(slices: Iterable[Object], pieces: dict[str, _Piece]) -> Iterator[Object]:
    for found in slices:
        pieces[found["metadata"]["name"]] = _Piece(found["metadata"].get("resourceVersion"), _node(found))
        yield found


def _node(found: Object) -> str | None:
    node: str | None = found["spec"].get("nodeName")
    return node
