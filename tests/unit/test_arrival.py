"""When is a request complete? However its bytes are divided, at the same one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.limits import LARGEST_BODY
from gateway.server.arrival import LARGEST_HEAD, Arrival, Progress

COMPLETE = [
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /sessions HTTP/1.1\r\nHost: x\r\ncontent-length:0\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX-After: y\r\n\r\n",
]
REFUSED = [
    b"\x00",
    b"\x16\x03\x01",  # TLS
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (LARGEST_HEAD + 1),
]


def feed(arrival: Arrival, pieces: list[bytes]) -> list[Progress]:
    return [arrival.feed(piece) for piece in pieces]


@pytest.mark.parametrize("request_bytes", COMPLETE)
def test_a_request_is_complete_with_its_last_byte(request_bytes: bytes) -> None:
    arrival = Arrival()
    *before, last = feed(arrival, [request_bytes[at : at + 1] for at in range(len(request_bytes))])
    assert set(before) == {Progress.PARTIAL}
    assert last is Progress.COMPLETE
    assert (bytes(arrival.data), arrival.rest) == (request_bytes, b"")


@given(
    request_bytes=st.sampled_from(COMPLETE), rest=st.binary(max_size=99), cuts=st.sets(st.integers(1, 150))
)
def test_what_follows_a_request_is_kept_apart(request_bytes: bytes, rest: bytes, cuts: set[int]) -> None:
    arrival, sent = Arrival(), request_bytes + rest
    ends = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    fed = 0
    for begin, end in zip(ends, ends[1:], strict=False):
        fed = end
        if arrival.feed(sent[begin:end]) is not Progress.PARTIAL:
            break
    assert bytes(arrival.data) == request_bytes
    assert arrival.rest == sent[len(request_bytes) : fed]


@pytest.mark.parametrize("sent", REFUSED)
def test_what_no_further_byte_can_mend_is_refused_at_once(sent: bytes) -> None:
    assert Arrival().feed(sent) is Progress.REFUSED


def test_a_body_in_chunks_is_bounded_as_well() -> None:
    arrival = Arrival()
    arrival.feed(b"PUT /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    assert feed(arrival, [piece] * 9) == [Progress.PARTIAL] * 8 + [Progress.TOO_LARGE]


def test_a_body_that_is_announced_too_large_is_not_waited_for() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 1)
    assert Arrival().feed(head) is Progress.TOO_LARGE


def test_a_client_that_waits_for_leave_to_send_its_body_is_noticed() -> None:
    arrival = Arrival()
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert arrival.feed(head) is Progress.PARTIAL
    assert arrival.expects_continue
    assert arrival.feed(b"{}") is Progress.COMPLETE
