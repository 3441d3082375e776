"""`--egress allowlist` on a cluster: sessions learn of the proxy that the administrator has deployed."""

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.squid import squid_config
from gateway.errors import NetworkUnavailable, StartRefused
from tests.conftest import Bench
from tests.on_a_cluster import EGRESS, EGRESS_SERVICE, OnCluster, a_cluster

HOSTS = ("pypi.org:443", ".pythonhosted.org:443")
PROXY = "http://10.96.0.31:3128"


@pytest.fixture
def on_cluster(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[OnCluster]:
    egress = {"egress": "allowlist", "egress_hosts": HOSTS, "egress_service": EGRESS}
    with a_cluster(bench, tmp_path / "cluster", empty_database, **egress) as made:
        yield made


def put_endpoints(on_cluster: OnCluster, *ready: bool) -> None:
    """Whether each pod of the proxy is ready."""
    metadata = {"namespace": "gpu-egress", "labels": {"kubernetes.io/service-name": "egress-proxy"}}
    for number, is_ready in enumerate(ready):
        found = {
            "metadata": {**metadata, "name": f"egress-proxy-{number}"},
            "endpoints": [{"conditions": {"ready": is_ready}}],
        }
        on_cluster.cluster.api.put("endpointslices", found)


def test_a_session_has_the_proxy_in_its_environment_and_reads_what_it_allows(on_cluster: OnCluster) -> None:
    on_cluster.cluster.api.put("services", EGRESS_SERVICE)
    id = on_cluster.open()
    [secret] = [found for found in on_cluster.cluster.api.of("secrets") if "passwd" in found["data"]]
    text = {key: b64decode(value).decode() for key, value in secret["data"].items()}
    assert secret["metadata"]["name"] == f"s-{id}"
    assert f"export https_proxy={PROXY}\n" in text["etc_environment.sh"]
    assert f" http_proxy={PROXY} " in text["etc_sshd_config"]
    assert "pypi.org:443, .pythonhosted.org:443 by $http_proxy" in text["etc_motd"]


def test_without_the_proxy_s_service_no_session_begins_and_nothing_is_left(on_cluster: OnCluster) -> None:
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert answer.status_code == 503
    assert "The Service gpu-egress/egress-proxy of the egress proxy does not exist" in answer.json["detail"]
    assert on_cluster.left() == {}
    on_cluster.cluster.api.put("services", EGRESS_SERVICE)
    assert on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb").status_code == 201


def test_the_doctor_sees_whether_a_pod_of_the_proxy_is_ready(on_cluster: OnCluster) -> None:
    check = on_cluster.parts.host.examinations()["egress"]
    on_cluster.cluster.api.put("services", EGRESS_SERVICE)
    with pytest.raises(NetworkUnavailable, match="No pod of the egress proxy is ready"):
        check()
    put_endpoints(on_cluster, False, False)
    with pytest.raises(NetworkUnavailable):
        check()
    put_endpoints(on_cluster, False, True)
    assert check() == "ok: pypi.org:443, .pythonhosted.org:443"


def test_the_configuration_of_squid_is_made_of_the_settings() -> None:
    variables = {
        "GATEWAY_EGRESS": "allowlist",
        "GATEWAY_EGRESS_HOSTS": ".example.org:8080",
        "GATEWAY_EGRESS_PRIVATE_SUBNETS": "192.168.0.0/16",
    }
    done = CliRunner(env=variables).invoke(squid_config)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "acl host0 dstdomain -n .example.org" in lines
    assert "acl port0 port 8080" in lines
    [closed] = [line for line in lines if line.startswith("acl closed dst ")]
    assert " 10.0.0.0/8 " in closed
    assert "192.168." not in closed


def test_squid_has_no_configuration_without_hosts() -> None:
    done = CliRunner().invoke(squid_config)
    assert isinstance(done.exception, StartRefused)
    assert "--egress-hosts" in str(done.exception)
