"""Webhooks: events as a receiver gets them, and what becomes of those that it does not take."""

import base64
import hashlib
import hmac
import ipaddress
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway import failpoints
from gateway.background.sender import Sender
from gateway.cli import gateway as command
from gateway.domain import webhooks
from gateway.domain.audit import Action
from gateway.domain.permissions import Role
from gateway.errors import DatabaseUnavailable, DeliveryFailed, DriverUnavailable, Unavailable
from gateway.repositories.receivers import HttpReceivers
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus
from tests.fakes.receiver import Receiver, drip, flood, receiving, status
from tests.paths import REPOSITORY

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"]), webhook_networks=LOOPBACK)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def hook(bench: Bench, receiver: Receiver, *events: str, name: str = "chat", **body: Any) -> str:
    """Return the secret of a new webhook; empty if it was changed."""
    body = {"url": receiver.url, "events": events or ["*"], **body}
    response = bench.client.put(f"/webhooks/{name}", json=body)
    assert response.status_code in (200, 201), response.text
    return str(response.json.get("secret", ""))


def send(bench: Bench) -> None:
    """One round of the sender, without its threads."""
    for target in bench.gateway.webhooks.due():
        bench.gateway.webhooks.send(target)


def create(bench: Bench, user_id: str = "user123") -> str:
    return str(bench.client.post("/sessions", json={"user_id": user_id}).json["session_id"])


def deliveries(bench: Bench, name: str = "chat") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = bench.client.get(f"/webhooks/{name}/deliveries").json["deliveries"]
    return found


def test_a_receiver_gets_the_life_of_a_session(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.*")
    bench.client.put("/users/user123", json={"group": "vision", "email": "user123@lab.example"})
    id = create(bench)
    bench.client.post(f"/sessions/{id}/extend", json={"minutes": 5})
    bench.client.delete(f"/sessions/{id}")
    send(bench)
    assert receiver.types == [
        "session.created",
        "session.opened",
        "session.extended",
        "session.closing",
        "session.ended",
    ]
    opened = receiver.requests[1].body
    assert opened["data"]["session"]["session_id"] == id
    assert opened["data"]["user"] == {
        "user_id": "user123",
        "group": "vision",
        "email": "user123@lab.example",
    }
    until = opened["data"]["session"]["expires_at"][:16].replace("T", " ")
    assert opened["data"]["text"] == f"The session of user123 (1g.5gb) is open until {until} UTC."
    ended = receiver.requests[-1].body
    assert ended["data"]["session"]["reason"] == "deleted"
    assert "has ended: deleted" in ended["data"]["text"]
    assert {each["status"] for each in deliveries(bench)} == {204}
    assert all(each["delivered_at"] and each["next_at"] is None for each in deliveries(bench))


def test_the_signature_is_true_for_the_library_and_by_hand(bench: Bench, receiver: Receiver) -> None:
    bench.clock.now = datetime.now(UTC)
    secret = hook(bench, receiver, "session.opened")
    create(bench)
    send(bench)
    [received] = receiver.requests
    assert Webhook(secret).verify(received.text, received.headers)["type"] == "session.opened"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.{received.text}"
    digest = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    assert received.headers["webhook-signature"] == f"v1,{digest}"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(received.text.replace("user123", "user124"), received.headers)


def test_only_the_wanted_types_are_sent(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.ended", "gpu.*")
    bench.client.delete(f"/sessions/{create(bench)}")
    bench.client.put("/gpus/0/cordon", json={"reason": "fan"})
    send(bench)
    assert receiver.types == ["session.ended", "gpu.cordoned"]


def test_a_fault_of_a_gpu_and_its_recovery_are_sent_once_each(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "gpu.*")
    [gpu] = bench.gpus.list()
    for fault in (None, "it needs a reset", "it needs a reset", None, None):
        bench.gpus.set_fault(gpu.uuid, fault)
        bench.gateway.gauges.measure()
    send(bench)
    assert receiver.types == ["gpu.unhealthy", "gpu.recovered"]
    assert "GPU 0 it needs a reset" in receiver.requests[0].body["data"]["text"]


def test_a_driver_that_does_not_answer_is_no_recovery(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "gpu.*")
    [gpu] = bench.gpus.list()
    bench.gpus.set_fault(gpu.uuid, "it needs a reset")
    bench.gateway.gauges.measure()
    bench.gpus.fail("list", DriverUnavailable("The driver hangs."))
    bench.gateway.gauges.measure()
    bench.gpus.fail("list", None)
    bench.gateway.gauges.measure()
    send(bench)
    assert receiver.types == ["gpu.unhealthy"]


def test_slack_gets_the_text_alone(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.ended", format="slack")
    bench.client.delete(f"/sessions/{create(bench)}")
    send(bench)
    assert receiver.requests[0].body == {
        "text": "The session of user123 (1g.5gb) has ended: deleted. The workspace is kept."
    }


def test_waiting_and_faults_of_gpus_are_sentences_too(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.waiting", "gpu.*", "token.created", format="slack")
    bench.client.post("/sessions", json={"user_id": "ann", "mig_profile": "7g.40gb"})
    body = {"user_id": "ben", "mig_profile": "7g.40gb", "wait_minutes": 60}
    assert bench.client.post("/sessions", json=body).status_code == 202
    bench.client.put("/gpus/0/cordon", json={"reason": "a new fan"})
    bench.client.delete("/gpus/0/cordon")
    send(bench)
    texts = [each.body["text"] for each in receiver.requests]
    starts = [
        "ben waits for a session: 7g.40gb until ",
        "No new sessions start on a GPU: GPU 0 ",
        "Sessions start on a GPU again: GPU 0 ",
    ]
    assert all(text.startswith(start) for text, start in zip(sorted(texts), sorted(starts), strict=True)), (
        texts
    )
    assert all(text.endswith(".") and not text.endswith("..") for text in texts)


def test_a_request_in_line_is_named_from_its_wait_to_its_end(bench: Bench, receiver: Receiver) -> None:
    create_body = {"user_id": "ann", "mig_profile": "7g.40gb", "ttl_minutes": 600}
    bench.client.post("/sessions", json=create_body)
    hook(bench, receiver, "session.*")
    body = {"user_id": "ben", "mig_profile": "7g.40gb", "wait_minutes": 60}
    request = bench.client.post("/sessions", json=body).json
    bench.clock.advance(minutes=60)
    bench.gateway.queue.serve()
    send(bench)
    waits, ended = (received.body["data"] for received in receiver.requests)
    for data in (waits, ended):
        assert data["session"]["session_id"] == request["session_id"]
        assert (data["session"]["mig_profile"], data["session"]["gpu_uuid"]) == ("7g.40gb", None)
    assert (waits["session"]["expires_at"], ended["session"]["reason"]) == (None, "gave_up")
    assert ended["text"] == "ben gets no session (7g.40gb): gave_up."


def test_a_failed_delivery_is_tried_again_at_the_times_of_the_plan(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.opened")
    receiver.answer = status(500)
    create(bench)
    for wait in (0, 5, 300, 1800, 7200, 18000, 36000):
        bench.clock.advance(seconds=wait - 1 if wait else 0)
        before = len(receiver.requests)
        if wait:
            send(bench)
            assert len(receiver.requests) == before, f"too early, {wait} s after the last attempt"
            bench.clock.advance(seconds=1)
        send(bench)
        assert len(receiver.requests) == before + 1
    [delivery] = deliveries(bench)
    assert (delivery["attempts"], delivery["status"], delivery["next_at"]) == (7, 500, None)
    bench.clock.advance(days=10)
    send(bench)
    assert len(receiver.requests) == 7
    assert len({received.headers["webhook-id"] for received in receiver.requests}) == 1
    assert len({received.headers["webhook-timestamp"] for received in receiver.requests}) == 7


def test_a_later_event_waits_until_the_receiver_answers(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.*")
    receiver.answer = status(503)
    create(bench)
    send(bench)
    assert receiver.types == ["session.created"]
    receiver.answer = status(200)
    bench.clock.advance(seconds=5)
    send(bench)
    assert receiver.types == ["session.created", "session.created", "session.opened"]


def test_gone_switches_the_webhook_off_until_it_is_set_again(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.opened")
    receiver.answer = status(410)
    create(bench)
    send(bench)
    create(bench, "user456")
    bench.clock.advance(days=1)
    send(bench)
    assert len(receiver.requests) == 1
    [shown] = bench.client.get("/webhooks").json["webhooks"]
    assert shown["disabled_at"] is not None
    assert "secret" not in shown
    receiver.answer = status(204)
    hook(bench, receiver, "session.opened")
    create(bench, "user789")
    send(bench)
    assert [received.body["data"]["user"]["user_id"] for received in receiver.requests] == [
        "user123",
        "user789",
    ]


def test_a_webhook_that_is_off_is_neither_tested_nor_retried(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "*")
    receiver.answer = status(410)
    send(bench)
    [gone] = deliveries(bench)
    for path in ("test", f"deliveries/{gone['id']}/retry"):
        answer = bench.client.post(f"/webhooks/chat/{path}")
        assert (answer.status_code, answer.json["type"]) == (409, "/problems/webhook-off")
    assert deliveries(bench) == [gone]


def test_a_delivery_can_be_sent_again(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.opened")
    create(bench)
    send(bench)
    [delivery] = deliveries(bench)
    assert "secret" not in bench.client.get("/webhooks").text
    response = bench.client.post(f"/webhooks/chat/deliveries/{delivery['id']}/retry")
    assert response.status_code == 202
    send(bench)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert bench.client.post("/webhooks/chat/deliveries/99/retry").status_code == 404
    assert bench.client.post("/webhooks/other/deliveries/1/retry").status_code == 404


def test_a_test_reaches_its_webhook_whatever_events_it_wants(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.ended")
    hook(bench, receiver, "*", name="all")
    assert bench.client.post("/webhooks/chat/test").status_code == 202
    send(bench)
    assert receiver.types.count("webhook.tested") == 2
    assert [each["type"] for each in deliveries(bench)] == ["webhook.tested"]


def test_an_event_that_is_rolled_back_is_not_sent(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.*")
    failpoints.arm("after-intent-commit=error")
    assert bench.client.post("/sessions", json={"user_id": "user123"}).status_code == 503
    failpoints.arm("")
    send(bench)
    assert receiver.types == ["session.created", "session.failed", "session.ended"]


def test_a_crash_after_sending_sends_the_event_again_under_the_same_id(
    bench: Bench, receiver: Receiver
) -> None:
    hook(bench, receiver, "session.opened")
    create(bench)
    failpoints.arm("after-webhook-sent=error")
    with pytest.raises(Unavailable):
        send(bench)
    send(bench)
    assert len({received.headers["webhook-id"] for received in receiver.requests}) == 1
    assert len(receiver.requests) == 2
    failpoints.arm("after-webhook-recorded=error")
    create(bench, "user456")
    with pytest.raises(DatabaseUnavailable):
        send(bench)
    send(bench)
    assert len(receiver.requests) == 3


def test_a_redirect_is_not_followed(bench: Bench, receiver: Receiver) -> None:
    with receiving() as other:
        hook(bench, receiver, "session.opened")
        receiver.answer = status(307, Location=other.url)
        create(bench)
        send(bench)
        assert other.requests == []
    [delivery] = deliveries(bench)
    assert (delivery["status"], delivery["delivered_at"]) == (307, None)


@pytest.mark.parametrize("behaviour", [drip, lambda _: time.sleep(3)], ids=["drip", "silence"])
def test_a_slow_receiver_is_left_after_the_time_limit(
    bench: Bench, receiver: Receiver, behaviour: Any
) -> None:
    secret = hook(bench, receiver)
    receiver.answer = behaviour
    with bench.database.read() as rows:
        webhook = rows.webhook("chat")
    assert webhook
    assert secret
    with pytest.raises(DeliveryFailed):
        HttpReceivers(LOOPBACK, seconds=0.3).post(webhook, "evt_1", {}, datetime.now(UTC))


def test_a_receiver_that_floods_is_read_no_further(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.opened")
    receiver.answer = flood
    create(bench)
    send(bench)
    assert deliveries(bench)[0]["status"] == 200


def test_a_receiver_that_is_down_is_a_failed_delivery(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.opened", url="http://127.0.0.1:9/hook")
    create(bench)
    send(bench)
    [delivery] = deliveries(bench)
    assert delivery["status"] is None
    assert "refused" in delivery["error"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "ftp://127.0.0.1/",
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::a00:1]/",
        "https://[::10.0.0.1]/",
        "https://[fec0::1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://user:secret@example.org/",
        "https://",
        "https://example.org:99999/",
        "https://exam ple.org/",
        "nonsense",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_is_none_of_a_public_receiver_is_refused(bench_of: BenchMaker, url: str) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]))
    response = bench.client.put("/webhooks/chat", json={"url": url, "events": ["*"]})
    assert response.status_code == 422, response.text
    assert "url" in response.json["errors"]


@pytest.mark.parametrize("host", ["localhost", "localhost.localdomain", "2130706433", "0x7f.1", "127.1"])
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(host: str, receiver: Receiver) -> None:
    port = receiver.url.split(":")[2].split("/")[0]
    with pytest.raises(OSError, match=r"not a public address|not known|resolution|service"):
        HttpReceivers()._connect((host, int(port)))
    assert receiver.requests == []


def test_a_network_that_is_no_longer_allowed_gets_nothing_more(
    bench: Bench, bench_of: BenchMaker, receiver: Receiver
) -> None:
    hook(bench, receiver, "session.opened")
    strict = bench_of(bench.gpus)
    create(strict)
    send(strict)
    assert receiver.requests == []
    assert "not a public address" in deliveries(strict)[0]["error"]


@pytest.mark.parametrize(
    "events",
    [[], ["session"], ["Session.*"], ["*.*"], ["session.*.x"], ["sesion.*"], ["*", "session.endd"]],
)
def test_a_pattern_that_no_event_has_is_refused(bench: Bench, receiver: Receiver, events: list[str]) -> None:
    body = {"url": receiver.url, "events": events}
    assert bench.client.put("/webhooks/chat", json=body).status_code == 422


def test_a_type_that_is_mistyped_is_refused_with_the_nearest_one(bench: Bench, receiver: Receiver) -> None:
    answer = bench.client.put("/webhooks/chat", json={"url": receiver.url, "events": ["session.endd"]})
    assert "use one such as session.ended" in answer.json["detail"]


def test_the_documentation_lists_every_type() -> None:
    table = (
        (REPOSITORY / "docs/webhooks.md").read_text().partition("| kind | types |")[2].partition("\n\n")[0]
    )
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    listed = {kind.strip(" `") + name for kind, types in rows for name in re.findall(r"`([a-z_]+)`", types)}
    assert listed == {webhooks.event_type(action) for action in Action}


@pytest.mark.parametrize("action", Action)
def test_every_action_of_the_audit_log_has_a_type_that_a_pattern_can_name(action: Action) -> None:
    kind = webhooks.event_type(action)
    assert webhooks.problem_with_pattern(kind) is None
    assert webhooks.wants([f"{kind.partition('.')[0]}.*"], kind)
    assert len(kind) <= 40


def test_a_slow_receiver_delays_no_other(bench: Bench, receiver: Receiver) -> None:
    release = threading.Event()
    with receiving() as slow:
        slow.answer = lambda request: (release.wait(10), status(204)(request))[1]
        hook(bench, slow, "session.opened", name="slow")
        hook(bench, receiver, "session.opened", name="fast")
        create(bench)
        over, sender = threading.Event(), Sender(bench.gateway.webhooks)
        with ThreadPoolExecutor(4) as pool:
            sender.round(pool, over)
            deadline = time.monotonic() + 10
            while not receiver.requests and time.monotonic() < deadline:
                time.sleep(0.01)
            sender.round(pool, over)
            assert len(receiver.requests) == 1
            release.set()
    assert len(slow.requests) == 1


def test_a_receiver_that_is_down_does_not_crowd_out_another(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "policy.*", name="down", url="http://127.0.0.1:9/hook")
    for number in range(300):
        bench.client.put("/policies/default", json={"max_ttl_minutes": 60 + number})
    hook(bench, receiver, "session.opened", name="up")
    create(bench)
    send(bench)
    assert receiver.types == ["session.opened"]


def test_only_administrators_manage_webhooks(bench: Bench) -> None:
    operator = bench.client
    secret = Tokens(bench.database, bench.clock).create("operator", Role.OPERATOR)
    operator.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    assert operator.get("/webhooks").status_code == 403


def test_deliveries_are_counted_by_result(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver, "session.opened")
    create(bench)
    send(bench)
    receiver.answer = status(500)
    create(bench, "user456")
    send(bench)
    text = bench.client.get("/metrics").text
    assert 'gpu_gateway_webhook_deliveries_total{result="delivered"} 1.0' in text
    assert 'gpu_gateway_webhook_deliveries_total{result="retried"} 1.0' in text


def test_old_deliveries_are_forgotten_with_the_history_and_waiting_ones_are_not(
    bench: Bench, receiver: Receiver
) -> None:
    hook(bench, receiver, "session.opened")
    create(bench)
    send(bench)
    bench.clock.advance(days=31)
    bench.reconciler.reconcile()
    assert deliveries(bench) == []


def test_removing_a_webhook_takes_its_deliveries_away(bench: Bench, receiver: Receiver) -> None:
    hook(bench, receiver)
    create(bench)
    assert bench.client.delete("/webhooks/chat").status_code == 204
    send(bench)
    assert receiver.requests == []
    assert bench.client.get("/webhooks/chat/deliveries").status_code == 404


def test_the_command_shows_what_became_of_the_deliveries(bench: Bench, url: str, receiver: Receiver) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, ["webhook", "--url", url, *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    made = run("set", "chat", receiver.url, "--events", "session.opened,gpu.*")
    assert made.startswith("chat gets session.opened, gpu.*.\nSecret:  whsec_")
    create(bench)
    send(bench)
    run("test", "chat")
    listed = [line.split() for line in run("deliveries", "chat").splitlines()]
    assert [line[3:] for line in listed[1:]] == [
        ["session.opened", "delivered", "1", "204"],
        ["webhook.tested", "waiting", "0", "-"],
    ]
    run("retry", "chat", listed[1][0])
    assert receiver.url in run("list")
    run("remove", "chat")
    assert run("list").split() == ["NAME", "FORMAT", "STATE", "EVENTS", "URL"]
