import json
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gateway.cli import gateway, slice_map
from gateway.domain.mig import MigMode, Placement
from gateway.domain.permissions import Role
from gateway.errors import GatewayError, SliceBusy
from gateway.services.tokens import Tokens
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(gateway, ["gpus", *arguments], **options)


def drawn(bench: Bench) -> list[str]:
    gpus = bench.client.get("/gpus").json["gpus"]
    return click.unstyle(slice_map.draw(gpus, bench.clock.now)).splitlines()


def opened(bench: Bench, user_id: str, profile: str) -> Any:
    session = bench.client.post("/sessions", json={"user_id": user_id, "mig_profile": profile}).json
    assert "session_id" in session, session
    return session


def test_the_bar_shows_allocated_and_free_slices(bench: Bench) -> None:
    bench.clock.now = NOW
    session = opened(bench, "ann", "3g.20gb")
    bench.gpus.create(bench.gpus.list()[0].uuid, "1g.5gb", Placement(1, 1))
    assert drawn(bench) == [
        "GPU 0  NVIDIA A100-SXM4-40GB  40960 MiB, 3 of 8 slices free, simulated",
        "  0        1        2        3        4        5        6        7",
        "  |........|other 1g|........|........|ann 3g.20gb =======================|",
        "  1     other         1g.5gb        no session  " + str(bench.gpus.list()[0].instances[0].mig_uuid),
        f"  4-7   ann           3g.20gb       until 2025-01-17 09:00 UTC (1:00 left)  {session['gpu_uuid']}",
    ]


def test_a_user_reads_until_when_the_slices_of_others_are_held(bench: Bench) -> None:
    bench.clock.now = NOW
    session = opened(bench, "ann", "3g.20gb")
    token = Tokens(bench.database, bench.clock).create("ben", Role.USER, "ben")
    gpus = bench.client.get("/gpus", headers={"Authorization": f"Bearer {token}"}).json["gpus"]
    assert click.unstyle(slice_map.draw(gpus, NOW)).splitlines()[2:] == [
        "  |........|........|........|........|somebody 3g.20gb ==================|",
        f"  4-7   somebody      3g.20gb       until 2025-01-17 09:00 UTC (1:00 left)  {session['gpu_uuid']}",
    ]


@pytest.mark.parametrize(("kind", "slices"), [("A30", 4), ("H200-141GB", 8), ("RTX-PRO-6000", 12)])
def test_the_bar_has_the_same_length_for_every_number_of_slices(
    bench_of: BenchMaker, kind: str, slices: int
) -> None:
    heading, numbers, bar = drawn(bench_of(FakeGpus([kind])))
    assert f"{slices} of {slices} slices free" in heading
    assert numbers.split() == [str(number) for number in range(slices)]
    assert (len(bar), bar.count("|")) == (75, slices + 1)


def test_a_gpu_without_mig_or_with_mig_off_is_marked(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["T4", "A100-40GB"]))
    bench.gpus.set_mode(bench.gpus.list()[1].uuid, MigMode.DISABLED)
    text = "\n".join(drawn(bench))
    assert "no MIG" in text
    assert "`nvidia-smi -i 1 -mig 1`" in text


def test_a_gpu_that_takes_no_sessions_is_shown_with_the_reason(bench: Bench) -> None:
    bench.client.put("/gpus/0/cordon", json={"reason": "a loud fan"})
    assert drawn(bench)[1] == "  cordoned: a loud fan"
    bench.gpus.set_fault(bench.gpus.list()[0].uuid, "GPU is lost")
    assert drawn(bench)[1] == "  GPU is lost"


def test_what_is_promised_and_when_the_gpu_closes_is_shown(bench: Bench) -> None:
    bench.clock.now = NOW
    opened(bench, "ann", "4g.20gb")
    for user in ("ben", "cem"):
        body = {"user_id": user, "mig_profile": "7g.40gb", "ttl_minutes": 30, "wait_minutes": 600}
        assert bench.client.post("/sessions", json=body).status_code == 202
    bench.client.put("/gpus/0/cordon", json={"from": "2025-01-17T18:00:00Z"})
    assert drawn(bench)[-2:] == [
        "  0-7   promised      7g.40gb       at 2025-01-17 09:01 UTC (in 1:01), and 1 more after it",
        "  closes for maintenance at 2025-01-17 18:00 UTC (in 10:00)",
    ]


def test_an_instance_that_cannot_be_destroyed_is_shown_with_the_reason(bench: Bench) -> None:
    session = opened(bench, "ann", "3g.20gb")
    bench.gpus.fail("destroy", SliceBusy("A monitor holds it."))
    bench.client.delete(f"/sessions/{session['session_id']}")
    *_, line, problem = drawn(bench)
    assert "is closing" in line
    assert problem.strip() == "A monitor holds it."


def test_a_host_without_gpus_is_reported() -> None:
    assert slice_map.draw([], NOW) == "This host has no GPUs."


def test_the_command_shows_the_gpus_and_is_plain_in_a_pipe(bench: Bench, url: str) -> None:
    opened(bench, "ann", "3g.20gb")
    shown = run("--url", url)
    assert (shown.exit_code, "|ann 3g.20gb ===" in shown.output) == (0, True)
    assert "\x1b" not in shown.output
    assert run(env={"GATEWAY_URL": url}).output == shown.output


def test_a_terminal_gets_colours_unless_no_color_is_set(url: str) -> None:
    assert "\x1b" in run("--url", url, color=True).output
    assert "\x1b" not in run("--url", url, color=True, env={"NO_COLOR": "1"}).output


def test_json_is_the_response_of_the_api(bench: Bench, url: str) -> None:
    assert json.loads(run("--url", url, "--json").output) == bench.client.get("/gpus").json


def test_a_gpu_can_be_cordoned_and_uncordoned(bench: Bench, url: str) -> None:
    assert run("--url", url, "cordon", "0", "--reason", "a loud fan").exit_code == 0
    assert bench.client.get("/gpus").json["gpus"][0]["reason"] == "cordoned: a loud fan"
    assert run("--url", url, "uncordon", "0").exit_code == 0
    assert not bench.client.get("/gpus").json["gpus"][0]["cordoned"]


def test_an_error_is_one_sentence(url: str) -> None:
    refused = run("--url", url, "cordon", "7")
    assert isinstance(refused.exception, GatewayError)
    assert "no GPU 7" in str(refused.exception)
    for wrong in ("http://127.0.0.1:1", "unix:/nowhere"):
        assert f"No gateway answers at {wrong}" in str(run("--url", wrong).exception)
