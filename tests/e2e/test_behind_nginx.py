"""The API behind the example of nginx: TLS, a public name and a path in front."""

import datetime
import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import own
from tests.paths import REPOSITORY
from tests.whole_gateway import Gateway, eventually, free_port, take_away

USER = own.user("proxied")


def make_certificate(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Of the API as other hosts see it; nginx runs by the example, with other names and directories."""
    port, gateway = free_port(), Gateway(tmp_path)
    public = f"https://localhost:{port}/gpu"
    gateway.settings["GATEWAY_PUBLIC_URL"] = public
    assert gateway.run("migrate").returncode == 0
    refused = gateway.run("serve")
    assert refused.returncode != 0
    assert "gateway token create" in refused.stderr
    token = gateway.run("token", "create", "admin", "--role", "admin").stdout.strip()
    (tmp_path / "token").write_text(token)
    gateway.serve()
    make_certificate(tmp_path)
    example = (REPOSITORY / "docker/nginx.conf").read_text()
    for theirs, ours in (
        ("/run/gateway-nginx.pid", str(tmp_path / "nginx.pid")),
        ("/var/log/nginx", str(tmp_path)),
        ("/etc/ssl/gateway", str(tmp_path)),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("gw.example.org;", "localhost;"),
        ("127.0.0.1:8080", f"127.0.0.1:{gateway.port}"),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    (tmp_path / "nginx.conf").write_text(example)
    nginx = subprocess.Popen(["nginx", "-c", tmp_path / "nginx.conf", "-g", "daemon off;"])
    eventually(lambda: (tmp_path / "nginx.pid").exists())
    yield public
    nginx.terminate()
    nginx.wait(timeout=10)
    take_away(gateway)


def test_a_session_is_opened_through_the_proxy_and_its_location_leads_back(url: str, tmp_path: Path) -> None:
    token = requests.Session()
    token.trust_env = False
    token.verify = str(tmp_path / "certificate.pem")
    assert token.get(f"{url}/sessions", timeout=30).status_code == 401, "the proxy is not the administrator"
    token.headers["Authorization"] = f"Bearer {_token(tmp_path)}"
    made = token.post(f"{url}/sessions", json={"user_id": USER}, timeout=60)
    assert made.status_code == 201, made.text
    session: dict[str, Any] = made.json()
    assert made.headers["Location"] == f"{url}/sessions/{session['session_id']}"
    assert token.get(made.headers["Location"], timeout=30).json()["user_id"] == USER
    forgery = {"SCRIPT_NAME": "/evil", "X-Forwarded-Host": "evil"}
    forged = token.get(f"{url}/sessions", headers=forgery, timeout=30)
    assert forged.status_code == 200
    assert token.delete(made.headers["Location"], timeout=60).status_code == 204


def test_the_pages_work_through_the_proxy(url: str, tmp_path: Path) -> None:
    browser = requests.Session()
    browser.trust_env = False
    browser.verify = str(tmp_path / "certificate.pem")
    form = browser.get(f"{url}/ui", timeout=30)
    assert form.url == f"{url}/ui/sign-in"
    origin = {"Origin": url.removesuffix("/gpu")}
    shown = browser.post(form.url, {"token": _token(tmp_path)}, headers=origin, timeout=30)
    assert (shown.status_code, shown.url) == (200, f"{url}/ui/")
    for path in re.findall(r'(?:href|src)="([^"#]*)"', shown.text):
        assert browser.get(urljoin(url, path), timeout=30).status_code == 200, path
    cordoned = browser.post(f"{url}/ui/gpus/0/cordon", {"reason": "a fan"}, headers=origin, timeout=30)
    assert "cordoned: a fan" in cordoned.text


def _token(directory: Path) -> str:
    return (directory / "token").read_text()
