"""Messages between the router's processes arrive whole, whatever clients have put into them."""

import pytest

from gateway.router.channel import Channel


@pytest.mark.parametrize("letter", ["x", "\x00", "\u20ac", "\U0001f511"])
def test_long_texts_arrive_short_and_the_next_message_is_read(letter: str) -> None:
    one, other = Channel.pair()
    texts = ("user_id", "session_id", "reason", "detail", "error")
    one.send({"event": "refused", "number": 7, **dict.fromkeys(texts, letter * 100_000)})
    one.send({"event": "gone", "number": 7})

    received, next_one = other.receive(), other.receive()
    assert received is not None
    assert received[0]["number"] == 7
    assert all(set(received[0][name]) == {letter} for name in texts)
    assert next_one is not None
    assert next_one[0] == {"event": "gone", "number": 7}
