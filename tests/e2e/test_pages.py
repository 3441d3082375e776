"""The web pages of a running gateway, in a real browser."""

import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests import own
from tests.whole_gateway import Gateway, eventually

USER = own.user("viewer")


@pytest.fixture
def page(gateway: Gateway) -> Iterator[Page]:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: run docker/install-host tests"
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]  # root cannot use the sandbox
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page()
        page.set_default_timeout(20_000)  # milliseconds
        page.goto(f"{gateway.url}/ui/")
        yield page
        browser.close()


def test_the_key_and_the_line_that_the_page_shows_open_the_session(gateway: Gateway, page: Page) -> None:
    page.get_by_role("link", name="Create a session").click()
    page.get_by_label("User").fill(USER)
    page.get_by_label("Profile").select_option("1g.5gb")
    page.get_by_role("button", name="Create a session").click()
    key = gateway.directory / f"{USER}.key"
    key.touch(mode=0o600)
    key.write_text(page.locator("pre").inner_text().strip() + "\n")
    [session] = [each for each in gateway.get("/sessions")["sessions"] if each["user_id"] == USER]
    (gateway.directory / f"{USER}.known_hosts").write_text(session["ssh_known_hosts"] + "\n")
    shown = page.locator("code.command").inner_text()
    assert shown == session["ssh_command"]
    options = [option for option in gateway.ssh(USER)[1:-1] if option not in ("-p", str(gateway.ssh_port))]
    command = [*shown.split()[:1], *options, *shown.split()[1:], "id", "-un"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == USER, done.stderr

    page.get_by_role("link", name="Continue").click()
    page.get_by_role("link", name=f"End {USER}", exact=True).click()
    page.get_by_role("button", name="End the session").click()
    expect(page.get_by_role("heading", name="Now", exact=True)).to_be_visible()
    eventually(lambda: gateway.leftovers(session["session_id"]) == [])


def test_the_map_has_the_instances_of_the_api(gateway: Gateway, page: Page) -> None:
    session = gateway.create(own.user("mapped"), mig_profile="2g.10gb")
    expect(page.locator("li.slice.active", has_text="2g.10gb")).to_be_visible()
    instances = [each for gpu in gateway.get("/gpus")["gpus"] for each in gpu["instances"]]
    held = page.locator("li.slice:not(.free)")
    expect(held).to_have_count(len(instances))
    assert gateway.delete(session["session_id"]).status_code == 204
    expect(page.locator("li.slice.active", has_text="2g.10gb")).to_have_count(0)


def test_the_page_outlives_a_killed_gateway(gateway: Gateway, page: Page) -> None:
    expect(page.locator("#unreachable")).to_be_hidden()
    gateway.kill("serve", signal.SIGKILL)
    expect(page.locator("#unreachable")).to_be_visible()
    gateway.serve()
    expect(page.locator("#unreachable")).to_be_hidden()
