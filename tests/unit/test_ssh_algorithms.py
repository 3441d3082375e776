"""How two sides agree on algorithms."""

from dataclasses import replace

import pytest

from gateway.router.ssh.algorithms import EXT_INFO, KEY_EXCHANGES, MACS, STRICT, Choice, Offer
from gateway.router.ssh.wire import SshError

SERVER = Offer.make("server", ("ssh-ed25519", "rsa-sha2-512"))


def client(**lists: tuple[str, ...]) -> Offer:
    """An offer like the server's but for some of its lists, by their place."""
    changed = list(SERVER.lists)
    for place, names in lists.items():
        changed[int(place[1:])] = names
    return replace(SERVER, lists=tuple(changed))


def test_an_offer_is_read_as_it_was_written() -> None:
    assert Offer.parse(SERVER.packet) == SERVER


def test_the_client_s_first_choice_that_the_server_has_is_taken() -> None:
    choice = Choice.of(client(_0=("unknown", "ecdh-sha2-nistp256", "curve25519-sha256")), SERVER)
    assert choice.key_exchange == "ecdh-sha2-nistp256"


@pytest.mark.parametrize(
    ("lists", "is_wrong"),
    [
        ({}, False),
        ({"_0": ("curve25519-sha256",)}, True),
        ({"_0": (KEY_EXCHANGES[0], "curve25519-sha256")}, False),
        ({"_1": ("rsa-sha2-512", "ssh-ed25519")}, True),
        ({"_0": ("unknown", *KEY_EXCHANGES)}, True),
    ],
)
def test_a_guess_is_right_only_if_both_prefer_the_same(
    lists: dict[str, tuple[str, ...]], is_wrong: bool
) -> None:
    assert Choice.of(client(**lists), SERVER).wrong_guess == is_wrong


@pytest.mark.parametrize(
    ("place", "what"),
    [("_0", "key exchange"), ("_1", "host key"), ("_2", "cipher"), ("_3", "cipher"), ("_6", "compression")],
)
def test_nothing_in_common_is_an_error_that_shows_both_lists(place: str, what: str) -> None:
    with pytest.raises(SshError, match=f"no common {what}.*'mine'.*the server '"):
        Choice.of(client(**{place: ("mine",)}), SERVER)


@pytest.mark.parametrize("mark", [*EXT_INFO.values(), *STRICT.values()])
def test_a_mark_in_the_list_of_key_exchanges_is_not_chosen(mark: str) -> None:
    assert Choice.of(client(_0=(mark, "curve25519-sha256")), SERVER).key_exchange == "curve25519-sha256"
    with pytest.raises(SshError, match="no common key exchange"):
        Choice.of(client(_0=(mark,)), SERVER)


def test_a_mac_is_needed_only_by_ciphers_without_one() -> None:
    aead, ctr = ("aes128-gcm@openssh.com",), ("aes128-ctr",)
    assert Choice.of(client(_2=aead, _3=aead, _4=("hmac-md5",), _5=("hmac-md5",)), SERVER)
    with pytest.raises(SshError, match="no common MAC"):
        Choice.of(client(_2=ctr, _3=ctr, _4=("hmac-md5",)), SERVER)


def test_nothing_that_is_offered_rests_on_sha1_or_on_expensive_exchanges() -> None:
    offered = ",".join(name for names in SERVER.lists for name in names)
    for weak in ("sha1", "ssh-rsa", "diffie-hellman", "rsa2048", "md5", "cbc", "arcfour", "ssh-dss"):
        assert weak not in offered
    assert all("sha2" in name for name in MACS)
