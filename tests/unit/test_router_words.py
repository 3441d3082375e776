"""What the embedded router says to a user whose session cannot be reached."""

import errno
import os
import socket

import pytest

from gateway.router.ssh.authentication import KeyRefused
from gateway.router.ssh.handshake import HostKeyMismatch
from gateway.router.ssh.transport import Closed
from gateway.router.ssh.wire import SshError
from gateway.router.upstream import explanation


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (os_error(errno.ECONNREFUSED), "may be starting or ending"),
        (os_error(errno.EHOSTUNREACH), "has ended, or it is starting"),
        (os_error(errno.ENETUNREACH), "has ended, or it is starting"),
        (TimeoutError(), "does not answer in time"),
        (HostKeyMismatch(), "host key is not the one it was started with"),
        (KeyRefused(), "does not accept the gateway's key"),
        (Closed("Exceeded MaxStartups"), "(Exceeded MaxStartups)"),
        (Closed(), "may be ending, or out of processes"),
        (SshError("a packet is damaged"), "a packet is damaged"),
        (os_error(errno.EMFILE), "the gateway has no capacity"),
        (os_error(errno.ENFILE), "the gateway has no capacity"),
        (os_error(errno.EADDRNOTAVAIL), "the gateway has no capacity"),
        (socket.gaierror(-2, "Name or service not known"), "the route to the session is damaged"),
        (FileNotFoundError(errno.ENOENT, "no such file"), "the route to the session is damaged"),
        (ValueError("its known_hosts name no key"), "the route to the session is damaged"),
        (os_error(errno.EPERM), "Operation not permitted"),
    ],
)
def test_each_cause_has_its_own_words(error: Exception, words: str) -> None:
    assert words in explanation(error)


def test_only_a_session_that_may_be_starting_or_ending_is_said_to_be() -> None:
    for number in (errno.EMFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.EPERM):
        assert "starting" not in explanation(os_error(number))
