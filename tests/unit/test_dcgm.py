"""What dcgm-exporter says about the slices, and what its silence means."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gateway.domain.activity import GpuUse
from gateway.errors import DriverUnavailable
from gateway.repositories.dcgm import DcgmExporter
from tests.conftest import Bench

# As dcgm-exporter 4 prints it, with another metric and a GPU without MIG.
PRINTED = """\
# HELP DCGM_FI_PROF_GR_ENGINE_ACTIVE Ratio of time the graphics engine is active.
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-1",GPU_I_PROFILE="3g.20gb",GPU_I_ID="2",modelName="A100"} 0.93
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-1",GPU_I_PROFILE="1g.5gb",GPU_I_ID="7",modelName="A100"} 0.0
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="1",UUID="GPU-2",modelName="A100"} 0.5
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1",GPU_I_ID="2"} 41
"""


class Exporter(HTTPServer):
    text, requests = PRINTED, 0


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(server.text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = Exporter(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(exporter: Exporter) -> str:
    return f"http://127.0.0.1:{exporter.server_port}/metrics"


def test_a_slice_is_as_busy_as_the_exporter_says(exporter: Exporter) -> None:
    dcgm = DcgmExporter(url(exporter))
    assert [dcgm.busy("GPU-1", 2), dcgm.busy("GPU-1", 7)] == [0.93, 0.0]
    assert exporter.requests == 1, "one answer is for all sessions of a round"


def test_what_the_exporter_does_not_say_is_unknown(exporter: Exporter) -> None:
    dcgm = DcgmExporter(url(exporter))
    assert [dcgm.busy("GPU-1", 3), dcgm.busy("GPU-2", 0)] == [None, None]


@pytest.mark.parametrize("text", ["", "<html>", 'DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0"', "\0"])
def test_an_answer_that_is_none_is_unknown(exporter: Exporter, text: str) -> None:
    exporter.text = text
    assert DcgmExporter(url(exporter)).busy("GPU-1", 2) is None


def test_an_exporter_that_is_down_is_unknown() -> None:
    assert DcgmExporter("http://127.0.0.1:9/metrics").busy("GPU-1", 2) is None


def test_the_host_asks_for_the_slice_of_the_session(bench: Bench, exporter: Exporter) -> None:
    id = bench.client.post("/sessions", json={"user_id": "user123"}).json["session_id"]
    with bench.database.read() as rows:
        session = rows.live(id)
    [gpu] = bench.gpus.list()
    [instance] = gpu.instances
    assert bench.host.gpu_use(session) == GpuUse(0)
    bench.gpus.programs[str(instance.mig_uuid)] = 1
    assert bench.host.gpu_use(session) == GpuUse(1, None)
    exporter.text = PRINTED.replace("GPU-1", gpu.uuid).replace('GPU_I_ID="2"', f'GPU_I_ID="{instance.gi_id}"')
    metered = replace(bench.host, meter=DcgmExporter(url(exporter)))
    assert metered.gpu_use(session) == GpuUse(1, 0.93)
    bench.gpus.work[str(instance.mig_uuid)] = 0.4
    assert metered.gpu_use(session) == GpuUse(1, 0.4), "the driver's own meter comes first"
    assert bench.host.gpu_use(session) == GpuUse(1, 0.4)
    bench.gpus.fail("processes", DriverUnavailable("The driver hangs."))
    with pytest.raises(DriverUnavailable):
        bench.host.gpu_use(session)
