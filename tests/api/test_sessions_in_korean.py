"""With `--language ko`, no sentence that a user reads inside a session is left in English."""

import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unicodedata import east_asian_width

import pytest

from gateway.services.sign_ins import LIFETIME
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

# What stays: names, units, commands and their arguments.
_NAMES = (
    r"\$http_proxy|NVIDIA A100-SXM4-40GB|\d+g\.\d+gb|MiB|MIG-[\w-]+|GiB|GPU|API|SSH|UTC|curl|python3"
    r"|lease|extend|max|why|keep|end|DURATION|--yes|--json|\[y/N\]|~/\.ssh/authorized_keys|user123"
    r"|\b\d+[mhd](\d+m)?\b|Bring your files\."
)


@pytest.fixture
def korean(bench_of: BenchMaker) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"]), language="ko")


def english(text: str) -> list[str]:
    """The English words that are left in a text."""
    return re.findall(r"[A-Za-z]{2,}", re.sub(_NAMES, "", text))


def etc(bench: Bench) -> Path:
    [session] = bench.sessions.list()
    return bench.settings.state_dir / "sessions" / session.id / "etc"


def test_the_whole_message_of_the_day_is_korean(korean: Bench) -> None:
    before = korean.sessions.open("user123", LIFETIME, "1g.5gb", None).session.id
    korean.client.delete(f"/sessions/{before}")
    session = korean.sessions.open("user123", LIFETIME, "1g.5gb", None).session
    korean.client.post(f"/sessions/{session.id}/message", json={"text": "Bring your files."})
    korean.clock.advance(hours=11, minutes=58)
    korean.warn()
    text = (etc(korean) / "motd").read_text()
    assert english(text) == []
    for label in ("GPU 조각", "파일", "종료 시각", "지난 세션", "곧 종료", "메시지"):
        assert f"\n  {label} " in text, text


def test_the_labels_of_any_language_stand_above_each_other(korean: Bench) -> None:
    korean.sessions.open("user123", LIFETIME, "1g.5gb", None)
    lines = (etc(korean) / "motd").read_text().splitlines()
    for label in ("GPU 조각", "파일", "종료 시각"):
        [shown] = [each for each in lines if each.startswith(f"  {label} ")]
        before = re.match(r"  \S+( \S+)? +", shown)
        assert before
        columns = sum(2 if east_asian_width(each) == "W" else 1 for each in before[0])
        assert columns == 14, shown


def test_a_session_that_is_older_than_the_language_has_each_line_once(korean: Bench) -> None:
    korean.sessions.open("user123", LIFETIME, "1g.5gb", None)
    file = etc(korean) / "motd"
    file.chmod(0o644)
    file.write_text("\n  Welcome.\n\n  GPU slice   1g.5gb\n  Lease ends  never\n\n  Warning     old\n\n")
    [session] = korean.sessions.list()
    korean.client.post(f"/sessions/{session.id}/extend", json={"minutes": 60})
    text = file.read_text()
    assert "Lease ends" not in text
    assert text.count("종료 시각") == 1
    assert "GPU slice   1g.5gb" in text


def _promise(bench: Bench) -> None:
    waiting = {"user_id": "user456", "mig_profile": "7g.40gb", "ttl_minutes": 60, "wait_minutes": 900}
    assert bench.client.post("/sessions", json=waiting).status_code == 202


def _promise_later(bench: Bench) -> None:
    bench.sessions.open("user789", LIFETIME + timedelta(hours=1), "1g.5gb", None)
    _promise(bench)


def _limit_hours(bench: Bench) -> None:
    bench.sessions.policies.set("default", {"gpu_hours_per_week": 0.2})


def _end(bench: Bench) -> None:
    bench.sessions.close(bench.sessions.list()[0].id)


@pytest.mark.parametrize(
    ("before", "verb", "minutes", "english_words", "korean_words"),
    [
        (_promise, "extend", 60, "cannot be extended: somebody else was promised", "다른 사용자에게 약속"),
        (_promise_later, "extend", 600, "at the latest: somebody else was promised", "까지만 연장할 수"),
        (None, "extend", 90000, "at most 7 days, extensions included: this one can be", "최대 7일입니다"),
        (_limit_hours, "extend", 600, "of your 0.2 GPU-hours for 7 days are used", "7일 한도 0.2"),
        (None, "keep", 90000, "for at most 24 hours at a time", "최대 24시간까지"),
        (_end, "extend", 60, "The session has ended.", "세션이 종료되었습니다"),
        (None, "message", 0, "", "허용되지 않는"),
    ],
)
@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_refusal_is_in_the_language_of_the_gateway(
    bench_of: BenchMaker,
    language: str,
    before: Callable[[Bench], None] | None,
    verb: str,
    minutes: int,
    english_words: str,
    korean_words: str,
) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), language=language)
    session_id = bench.sessions.open("user123", LIFETIME, "1g.5gb", None).session.id
    if before:
        before(bench)
    with bench.database.read() as rows:
        peer = SimpleNamespace(session_uid=rows.user("user123").uid)
    refused = bench.app.test_client().post(
        f"/sessions/{session_id}/{verb}",
        headers={"Host": "localhost", "Accept": "text/plain"},
        environ_overrides={"gunicorn.socket": peer, "REMOTE_ADDR": ""},
        json={"minutes": minutes},
    )
    assert refused.status_code >= 400
    assert (english_words if language == "en" else korean_words) in refused.text
    assert language == "en" or english(refused.text) == []


def texts(directory: Path) -> dict[str, str]:
    """The sentences that the scripts print, as `sh` reads them."""
    names = re.findall(r"^(say_\w+)=", (directory / "words.sh").read_text(), re.MULTILINE)
    script = f". {directory}/words.sh\n" + "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split("\0"), strict=False))


def test_every_sentence_of_the_scripts_is_korean(korean: Bench) -> None:
    korean.sessions.open("user123", LIFETIME, "1g.5gb", None)
    found = texts(etc(korean))
    assert {name: english(text) for name, text in found.items() if english(text)} == {}
    for script in ("bin/lease", "shell"):
        used = set(re.findall(r"\$(say_\w+)", (etc(korean) / script).read_text()))
        assert used <= found.keys()
    assert "없습니다" in found["say_no_client"]


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["extend"], "say_how_long"),
        (["extend", "5 o'clock"], "say_no_duration"),
        (["keep"], "say_keep_how_long"),
        (["end"], "say_no_terminal"),
        (["extend", "2h"], "say_no_answer"),
        (["--help"], "say_usage"),
        (["nonsense"], "say_usage"),
    ],
)
def test_lease_says_what_is_wrong_in_the_language_of_the_gateway(
    bench_of: BenchMaker, language: str, arguments: list[str], name: str
) -> None:
    """By the script itself, with the files of the session in place of /etc/gateway, and no gateway to ask."""
    bench = bench_of(FakeGpus(["A100-40GB"]), language=language)
    bench.sessions.open("user123", LIFETIME, "1g.5gb", None)
    script = (etc(bench) / "bin/lease").read_text().replace("/etc/gateway", str(etc(bench)))
    done = subprocess.run(
        ["sh", "-c", script, "lease", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    wanted = texts(etc(bench))[name].replace("%s", "5 o'clock")
    assert wanted in done.stdout + done.stderr
    assert (done.returncode == 0) == (arguments == ["--help"])
    if language == "ko":
        assert english(done.stdout + done.stderr.replace("5 o'clock", "")) == []
