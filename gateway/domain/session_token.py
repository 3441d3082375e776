"""The token by which a program in a session calls the API, where it has no socket. Pure.

It follows from the session's row, so no table has it, and it ends with the row.
"""

import hashlib
import hmac

PREFIX = "session-"
_PURPOSE = b"a program in the session calls the API"


def make(session_id: str, private_key: str) -> str:
    """`private_key` is the router's of this session, which nobody in the session knows."""
    return f"{PREFIX}{session_id}.{_mac(session_id, private_key)}"


def session_of(token: str) -> str:
    """Return the id of the session that the token says it is from."""
    return token.removeprefix(PREFIX).partition(".")[0]


def is_valid(token: str, session_id: str, private_key: str) -> bool:
    return hmac.compare_digest(token.encode(), make(session_id, private_key).encode())


def _mac(session_id: str, private_key: str) -> str:
    return hmac.new(private_key.encode(), _PURPOSE + session_id.encode(), hashlib.sha256).hexdigest()
