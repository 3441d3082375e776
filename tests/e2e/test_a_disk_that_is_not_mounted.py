"""The disk of the workspaces is not there: no session begins with an empty home directory."""

import requests

from tests import own
from tests.whole_gateway import Gateway

USER = own.user("user123")


def test_no_session_opens_until_the_disk_is_back(gateway: Gateway) -> None:
    root = gateway.directory / "workspaces"
    gateway.delete(gateway.create(USER)["session_id"])
    (root / USER / "model.py").touch()
    root.rename(root.with_name("disk"))
    root.mkdir()
    refused = requests.post(f"{gateway.url}/sessions", json={"user_id": USER}, timeout=60)
    assert refused.status_code == 503
    assert "not mounted" in refused.json()["detail"]
    assert list(root.iterdir()) == []
    ready = requests.get(f"{gateway.url}/readyz", timeout=60)
    assert (ready.status_code, "not mounted" in ready.text) == (503, True)
    root.rmdir()
    root.with_name("disk").rename(root)
    session = gateway.create(USER)
    assert "model.py" in gateway.in_session(USER, "ls")
    gateway.delete(session["session_id"])
