"""The promises of hosts on two real clusters: one with a fake node, and one with a real kubelet and sshd."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from gateway.database_url import DatabaseUrl
from gateway.errors import ContainerFailed, DockerUnavailable
from gateway.repositories.kubernetes import objects
from gateway.repositories.kubernetes.logins import SshLogins
from gateway.repositories.kubernetes.objects import name_of
from tests.fleet.claims import PODS
from tests.fleet.control_plane import ControlPlane
from tests.fleet.gateways import IMAGE, SECONDS
from tests.fleet.in_process import Made, NoSshd, add_kinds, gateway_on, own_namespaces
from tests.fleet.node import STORAGE_CLASS, Node, image_of
from tests.fleet.nodes import Fakelet
from tests.host_promises import HostPromises, Site
from tests.postgresql import PostgresServer
from tests.whole_gateway import eventually

GIB = 2**30


@pytest.fixture(scope="module")
def database(postgresql: PostgresServer, empty_postgresql: str) -> Callable[[], DatabaseUrl]:
    """Return what makes a migrated database."""
    return lambda: DatabaseUrl(postgresql.create(empty_postgresql))


@pytest.fixture(scope="module")
def fake_node_site(
    cluster: ControlPlane, database: Callable[[], DatabaseUrl], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("fake-node")
    with (
        own_namespaces(cluster.api()) as names,
        Fakelet(cluster.api()) as fakelet,
        gateway_on(cluster, database(), names, directory, NoSshd(cluster, names.sessions)) as made,
    ):
        yield site_on(cluster, names, made, lambda id: fakelet.end(name_of(id), names.sessions))


@pytest.fixture(scope="module")
def kubelet_site(
    node: Node, database: Callable[[], DatabaseUrl], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    directory, api, logins = tmp_path_factory.mktemp("kubelet"), node.plane.api(), SshLogins()
    add_kinds(node.plane)
    changes = {"image": image_of(IMAGE), "storage_class": STORAGE_CLASS, "memory": GIB // 2}
    with (
        own_namespaces(api, **changes) as names,
        gateway_on(node.plane, database(), names, directory, logins) as made,
    ):

        def has_ended(id: str) -> bool:
            pod = api.get(PODS, name_of(id), names.sessions)
            return pod is not None and pod["status"]["phase"] != "Running"

        def end(id: str) -> None:
            login = made.host.login(id)
            assert login, f"the session {id} has no row"
            with suppress(ContainerFailed):  # the connection ends with sshd
                logins.run(login, ["/bin/kill", "1"])
            eventually(lambda: has_ended(id), SECONDS)

        yield site_on(node.plane, names, made, end, lambda: not node.slices())


def site_on(
    plane: ControlPlane,
    names: objects.Site,
    made: Made,
    end: Callable[[str], None],
    is_stopped: Callable[[], bool] = lambda: True,
) -> Site:
    """`is_stopped`: no node runs anything of a session that is gone."""

    def lose(id: str) -> None:
        plane.api().delete(PODS, name_of(id), names.sessions, grace=0)
        eventually(is_stopped, SECONDS)

    def fail(error: DockerUnavailable | None) -> None:
        """Nothing of the cluster can be reached, neither its API nor a session."""
        plane.place.refuse() if error else plane.place.accept()

    return Site(made.gateway, made.host, made.pipes, made.database, end, lose, fail, seconds=SECONDS)


@pytest.fixture(params=["fake_node", "kubelet"], scope="module")
def shared_site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(f"{request.param}_site")
    return found


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """Without sessions."""
    yield shared_site
    shared_site.fail(None)
    with shared_site.database.read() as rows:
        ids = [row.id for row in rows.list()]
    for id in ids:
        shared_site.ask("DELETE", f"/sessions/{id}")
    shared_site.gateway.reaper.reconcile()
    eventually(lambda: is_empty(shared_site), SECONDS)


def is_empty(site: Site) -> bool:
    gpus = site.host.list_gpus()
    return not site.host.observe([]).held and not any(gpu.instances for gpu in gpus)


class TestHostsOfClusters(HostPromises):
    """With the fixture `site` above."""
