"""Debian's Chromium, before a gateway on fakes. A page that breaks its own content policy fails the test."""

import shutil
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from gateway.domain.permissions import Role
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

expect.set_options(timeout=15_000)

_OF_THE_MACHINE = "net::ERR_NETWORK_CHANGED"  # other tests make and remove networks, and the page polls again


@pytest.fixture
def bench(request: pytest.FixtureRequest, bench_of: BenchMaker) -> Bench:
    """A test names other GPUs than one by `parametrize("bench", [kinds], indirect=True)`."""
    return bench_of(FakeGpus(getattr(request, "param", ["A100-40GB"])))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Playwright has an event loop in this thread, which must end before tests that have their own."""
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: run docker/install-host tests"
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]  # root cannot use the sandbox
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(15_000)  # milliseconds; a poll takes 5 s, and its content may be 4 s old
    yield context.new_page()
    context.close()


@pytest.fixture(autouse=True)
def complaints(page: Page, url: str) -> Iterator[list[str]]:
    """What the browser complains of, and requests to other hosts. A test that expects one clears the list."""
    complaints: list[str] = []

    def note_message(message: ConsoleMessage) -> None:
        is_serious = message.type == "error" and _OF_THE_MACHINE not in message.text
        if is_serious or "Content Security Policy" in message.text:
            complaints.append(message.text)

    def note_foreign(request: Request) -> None:
        if not request.url.startswith(url):
            complaints.append(request.url)

    page.on("console", note_message)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", note_foreign)
    yield complaints
    assert complaints == []


@pytest.fixture(autouse=True)
def running_clock(bench: Bench) -> Iterator[None]:
    """The pages poll in real time, so the gateway's clock runs as well."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.5):
            bench.clock.advance(seconds=0.5)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture
def operator(page: Page, url: str, tokens: Tokens) -> Page:
    """A page on which an operator has signed in."""
    return sign_in(page, url, tokens.create("ops", Role.OPERATOR))


def sign_in(page: Page, url: str, token: str) -> Page:
    page.goto(f"{url}/ui/")
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Now").wait_for()
    return page
