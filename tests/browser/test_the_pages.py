"""The web pages in a real browser."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from gateway.domain.permissions import Role
from gateway.domain.ssh_keys import make_pair
from gateway.services.tokens import Tokens
from tests.browser.conftest import sign_in
from tests.conftest import Bench

HOUR = timedelta(hours=1)


def opened(bench: Bench, user_id: str = "user123", lease: timedelta = HOUR, profile: str = "1g.5gb") -> str:
    return bench.sessions.open(user_id, lease, profile, None).session.id


def box_of(page: Page, selector: str) -> dict[str, float]:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return {"x": box["x"], "width": box["width"]}


def test_an_operator_creates_extends_messages_and_ends_a_session(operator: Page, bench: Bench) -> None:
    operator.get_by_role("link", name="Create a session").click()
    operator.get_by_label("User").fill("user123")
    operator.get_by_label("Profile").select_option("3g.20gb")
    operator.get_by_label("Lease").fill("2h")
    operator.get_by_role("button", name="Create a session").click()
    expect(operator.locator("pre")).to_contain_text("BEGIN OPENSSH PRIVATE KEY")
    expect(operator.locator("code.command")).to_have_text("ssh user123@ssh.gw")
    operator.get_by_role("link", name="Continue").click()

    operator.get_by_role("link", name="Extend user123").click()
    operator.get_by_label("Add").fill("1h")
    operator.get_by_role("button", name="Extend").click()
    expect(operator.locator("dl.facts")).to_contain_text("3 hours left")

    operator.get_by_role("link", name="Message user123").click()
    operator.get_by_label("Text").fill("<b>reboot</b> at six")
    operator.get_by_role("button", name="Send").click()
    expect(operator.get_by_role("table")).to_contain_text("<b>reboot</b> at six")

    operator.get_by_role("link", name="End user123", exact=True).click()
    expect(operator.locator("main")).to_contain_text("Every running program is killed")
    operator.get_by_role("button", name="End the session").click()
    expect(operator.locator("main")).to_contain_text("There is no session now")
    assert bench.sessions.list() == []


def test_the_map_is_that_of_the_api_and_follows_it_by_itself(operator: Page, bench: Bench) -> None:
    expect(operator.locator("li.slice.free")).to_have_count(8)
    opened(bench, profile="3g.20gb")
    expect(operator.locator("li.slice.active")).to_contain_text("user123")  # the poll of 3 s brings it
    expect(operator.locator("li.slice.free")).to_have_count(4)
    [gpu] = bench.gpus.list()
    [instance] = gpu.instances
    box, whole = box_of(operator, "li.slice.active"), box_of(operator, "ol.slices")
    assert box["width"] / whole["width"] == pytest.approx(instance.placement.size / 8, abs=0.02)
    assert (box["x"] - whole["x"]) / whole["width"] == pytest.approx(instance.placement.start / 8, abs=0.02)


def test_a_second_tab_sees_what_the_first_one_did(operator: Page, bench: Bench) -> None:
    opened(bench)
    second = operator.context.new_page()
    second.goto(operator.url)
    expect(second.locator("main")).to_contain_text("user123")
    operator.bring_to_front()
    operator.get_by_role("link", name="End user123", exact=True).click()
    operator.get_by_role("button", name="End the session").click()
    expect(second.locator("main")).to_contain_text("There is no session now")


def test_a_hidden_page_asks_for_nothing(operator: Page) -> None:
    operator.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    asked: list[str] = []
    operator.on("request", lambda request: asked.append(request.url))
    operator.wait_for_timeout(5500)  # one poll
    assert asked == []
    operator.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
    with operator.expect_request("**/ui/*"):
        operator.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_the_focus_stays_where_it_is_when_the_page_renews_itself(operator: Page, bench: Bench) -> None:
    opened(bench)
    link = operator.get_by_role("link", name="Extend user123")
    link.focus()
    opened(bench, "user456")
    expect(operator.get_by_role("link", name="Extend user456")).to_be_visible()
    expect(link).to_be_focused()


def test_a_page_says_that_the_gateway_does_not_answer_and_goes_on_when_it_does(
    operator: Page, complaints: list[str]
) -> None:
    note = operator.locator("#unreachable")
    expect(note).to_be_hidden()
    operator.context.set_offline(True)
    expect(note).to_be_visible()
    operator.context.set_offline(False)
    expect(note).to_be_hidden()
    assert all("ERR_INTERNET_DISCONNECTED" in each or "fetch" in each for each in complaints), complaints
    complaints.clear()


def test_everything_works_without_javascript(
    browser: Browser, bench: Bench, url: str, tokens: Tokens
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = sign_in(context.new_page(), url, tokens.create("ops", Role.OPERATOR))
    page.get_by_role("link", name="Create a session").click()
    page.get_by_label("User").fill("user123")
    page.get_by_role("button", name="Create a session").click()
    page.get_by_role("link", name="Continue").click()
    page.get_by_role("link", name="End user123", exact=True).click()
    page.get_by_role("button", name="End the session").click()
    expect(page.locator("main")).to_contain_text("There is no session now")
    context.close()


def test_the_pages_speak_korean(operator: Page, bench: Bench) -> None:
    opened(bench)
    operator.get_by_role("button", name="한국어").click()
    expect(operator.get_by_role("heading", name="현황")).to_be_visible()
    expect(operator.locator("main")).to_contain_text("1시간 남음")
    assert operator.locator("html").get_attribute("lang") == "ko"
    operator.get_by_role("button", name="English").click()
    expect(operator.get_by_role("heading", name="Now")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_has_an_obstacle_for_people_with_disabilities(
    operator: Page, bench: Bench, scheme: str, width: int
) -> None:
    """By axe-core's rules, in every state that the map can draw."""
    operator.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    operator.set_viewport_size({"width": width, "height": 900})
    session_id = opened(bench)
    opened(bench, "user456", timedelta(minutes=5))
    base = re.sub(r"/ui/.*", "/ui", operator.url)
    operator.goto(f"{base}/gpus/0/cordon")
    operator.get_by_role("button", name="Cordon GPU 0").click()
    paths = ("/", "/sessions", "/events", "/health", "/usage", "/create", "/gpus/0/uncordon")
    acts = tuple(f"/sessions/{session_id}{act}" for act in ("", "/extend", "/end", "/message"))
    for path in (*paths, *acts):
        operator.goto(base + path)
        result = Axe().run(operator)
        assert result.violations_count == 0, f"{path}: {result.generate_report()}"
        assert operator.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_keyboard_alone_is_enough(operator: Page, bench: Bench) -> None:
    opened(bench)
    operator.reload()
    for _ in range(40):
        operator.keyboard.press("Tab")
        if operator.evaluate("document.activeElement.textContent").startswith("End"):
            break
    operator.keyboard.press("Enter")
    button = operator.get_by_role("button", name="End the session")
    button.wait_for()
    button.focus()
    operator.keyboard.press("Enter")
    expect(operator.locator("main")).to_contain_text("There is no session now")


def drawn(page: Page) -> list[tuple[str, int, int]]:
    """The state, the first memory slice and the size of each segment of all maps."""
    return [
        (state, int(at) - 1, int(span))
        for name in page.locator("li.slice").evaluate_all("all => all.map(each => each.className)")
        for state, at, span in re.findall(r"slice (\w+) at-(\d+) span-(\d+)", name)
    ]


def expected(gpu: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """What the map of this GPU of `GET /gpus` must show of instances and reservations."""
    instances = {each["start"]: each for each in gpu["instances"]}
    promised = {
        slot for each in gpu["promised"] for slot in range(each["start"], each["start"] + each["size"])
    }
    slot = 0
    while slot < gpu["memory_slices"]["total"]:
        held = instances.get(slot)
        unused = "cordoned" if gpu["cordoned"] else "reserved" if slot in promised else "free"
        state = unused if held is None else "idle" if held["idle_since"] else held["status"]
        state = state if gpu["healthy"] else "faulty"
        yield state, slot, held["size"] if held else 1
        slot += held["size"] if held else 1


@pytest.mark.parametrize("bench", [["A100-40GB"] * 3], indirect=True)
def test_the_map_shows_each_state_that_the_api_reports(page: Page, bench: Bench, url: str) -> None:
    """Idle, reserved, faulty and cordoned slices, each with its word and a look of its own."""
    bench.gpus.set_fault(bench.gpus.list()[1].uuid, "GPU is lost")
    bench.client.put("/gpus/2/cordon", json={"reason": "a new fan"})
    opened(bench, lease=3 * HOUR, profile="3g.20gb")
    with bench.database.begin() as rows:
        rows.list()[0].idle_since = bench.clock.now - timedelta(minutes=52)
    waiting = {"user_id": "late", "mig_profile": "7g.40gb", "ttl_minutes": 60, "wait_minutes": 600}
    assert bench.client.post("/sessions", json=waiting).status_code == 202
    page.goto(f"{url}/ui/")
    shown = drawn(page)
    assert shown == [each for gpu in bench.client.get("/gpus").json["gpus"] for each in expected(gpu)]
    states = {state for state, _, _ in shown}
    assert states == {"idle", "reserved", "faulty", "cordoned"}
    look = "each => [getComputedStyle(each).backgroundImage, getComputedStyle(each).borderStyle].join()"
    looks = set()
    for state in states:
        expect(page.locator(f"li.slice.{state}").first).to_contain_text(state)
        looks.add(page.locator(f"li.slice.{state}").first.evaluate(look))
    assert len(looks) == len(states)  # without any colour
    expect(page.locator("main")).to_contain_text("GPU is lost")
    assert Axe().run(page).violations_count == 0


@pytest.mark.parametrize("bench", [["A100-40GB"] * 2], indirect=True)
def test_a_gpu_that_is_lost_while_the_page_is_open_is_marked_and_unmarked(
    page: Page, bench: Bench, url: str
) -> None:
    opened(bench, profile="3g.20gb")
    [lost] = [gpu.uuid for gpu in bench.gpus.list() if gpu.instances]
    page.goto(f"{url}/ui/")
    expect(page.locator("li.slice.active")).to_contain_text("user123")
    bench.gpus.set_fault(lost, "the GPU is lost: it has fallen off the bus")
    bench.reconciler.reconcile()
    expect(page.locator("li.slice.faulty")).to_have_count(5)  # the session's, and the four free ones
    expect(page.locator("article.gpu .problem")).to_contain_text("the GPU is lost")
    expect(page.locator("li.slice.faulty", has_text="user123")).to_have_count(1)
    expect(page.locator("li.slice.free")).to_have_count(8)  # the other GPU
    assert Axe().run(page).violations_count == 0
    bench.gpus.set_fault(lost, None)
    bench.reconciler.reconcile()
    expect(page.locator("li.slice.active")).to_contain_text("user123")
    expect(page.locator("article.gpu .problem")).to_have_count(0)


@pytest.mark.parametrize("bench", [["A100-40GB"] * 29], indirect=True)
def test_a_page_with_200_sessions_is_usable(page: Page, bench: Bench, url: str) -> None:
    for number in range(200):
        opened(bench, f"user{number:03}")
    page.goto(f"{url}/ui/")
    expect(page.locator("li.slice.active")).to_have_count(200)
    page.get_by_role("link", name="All 200 sessions").click()
    page.get_by_role("navigation", name="Pages of sessions").get_by_role("link", name="4").click()
    page.get_by_role("rowheader").last.get_by_role("link").click()
    expect(page.locator("h1")).to_contain_text("Session of user")


@pytest.mark.parametrize("bench", [[]], indirect=True)
def test_a_server_without_gpus_says_so(page: Page, url: str) -> None:
    page.goto(f"{url}/ui/")
    expect(page.locator("main")).to_contain_text("This host has no GPUs")


def test_an_operator_changes_the_group_and_the_keys_of_a_user(operator: Page, bench: Bench) -> None:
    opened(bench)
    operator.get_by_role("link", name="Users", exact=True).click()
    expect(operator.locator("main")).to_contain_text("There is no policy")
    assert Axe().run(operator).violations_count == 0
    operator.get_by_role("link", name="user123").click()
    operator.get_by_role("link", name="Change group and mail").click()
    operator.get_by_label("Group").fill("students")
    operator.get_by_role("button", name="Set").click()
    expect(operator.locator("dl.facts")).to_contain_text("students")
    operator.get_by_role("link", name="Replace the keys").click()
    operator.get_by_label("SSH public keys").fill(make_pair().public)
    operator.get_by_role("button", name="Replace the keys").click()
    expect(operator.locator("code.print")).to_contain_text("SHA256:")
    assert Axe().run(operator).violations_count == 0


@pytest.mark.parametrize("width", [360, 1024])
def test_no_long_word_makes_a_page_wider_than_the_screen(operator: Page, bench: Bench, width: int) -> None:
    long = "W" * 32
    session = opened(bench, long)
    token = Tokens(bench.database, bench.clock).create("adm", Role.ADMIN)
    contents = {
        "/gpus/0/cordon": {"reason": "x" * 200},
        f"/sessions/{session}/message": {"text": "m" * 500},
        f"/users/{long}": {"group": "G" * 32},
        "/policies/default": {"profiles": ["p" * 64] * 9},
    }
    for path, body in contents.items():
        method = "POST" if path.endswith("message") else "PUT"
        header = {"Authorization": f"Bearer {token}"}
        assert bench.client.open(path, method=method, json=body, headers=header).status_code < 300
    operator.set_viewport_size({"width": width, "height": 740})
    forms = [f"sessions/{session}/{form}" for form in ("extend", "message", "end")]
    for path in ("", "sessions", "events", "users", f"users/{long}", f"sessions/{session}", *forms):
        operator.goto(operator.url.partition("/ui/")[0] + f"/ui/{path}")
        expect(operator.locator("h1")).to_be_visible()
        assert operator.evaluate("document.documentElement.scrollWidth") == width, path
