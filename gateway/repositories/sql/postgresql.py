"""PostgreSQL: an engine with one writer at a time, and its errors as one line."""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from gateway.errors import StartRefused

# One writer at a time, as with SQLite, so that each decision (which placement is free, whether the user has a
# session) sees all earlier ones. SERIALIZABLE would give the same guarantee, but its failed transactions must
# be repeated, which a `with` block cannot do. The transaction holds the lock, so the lock ends with it or
# with its connection. No other program uses this number in the gateway's database.
_ONE_WRITER = int.from_bytes(b"gateway")

_POOL_SIZE = 8  # connections of each worker; by default the server allows 100 in total
_POOL_TIMEOUT_SECONDS = 10

# Parameters of libpq, which the URL can override. The keepalives detect a server that left the network.
_CONNECTING = {
    "application_name": "gpu-ssh-gateway",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

# A transaction takes milliseconds, but between two statements the plan of a long line on thousands of GPUs
# takes seconds. The last limit is for a process that stops inside a transaction: it holds up others no longer
# than this. Times arrive in UTC, which the driver reads twice as fast as other time zones, and
# which `UtcDateTime` relies on.
_SETTINGS = """
    SET TimeZone = 'UTC';
    SET statement_timeout = '10s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '20s'
"""


def make_engine(url: URL) -> Engine:
    """Return an engine for `url`. Raises `StartRefused` if the driver is not installed."""
    try:
        engine = create_engine(
            url.set(query=_CONNECTING | dict(url.query)),
            pool_size=_POOL_SIZE,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_SECONDS,
            pool_pre_ping=True,  # the server may have restarted
            use_native_hstore=False,  # saves one query for each new connection
            hide_parameters=True,  # an error in the log would otherwise quote private keys
        )
    except ImportError as error:
        raise StartRefused(
            "--db (GATEWAY_DB): the PostgreSQL driver is not installed: run "
            "`pip install 'gpu-ssh-gateway[postgresql]'`."
        ) from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute(_SETTINGS)
        connection.commit()

    # The isolation is READ COMMITTED, the default: after the lock, each statement sees all earlier commits.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("read_only"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")

    return engine


def cause(error: Any) -> str:
    """Return the message of a driver error as one line, without SQL, values and addresses."""
    first_line: str = str(error).partition("\n")[0]
    return error.diag.message_primary or first_line.rpartition("failed: ")[2]


def is_disk_full(error: Any) -> bool:
    return bool(error.sqlstate == "53100")
