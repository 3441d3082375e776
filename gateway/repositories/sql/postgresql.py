"""PostgreSQL: transactions one at a time, as SQLite's are, and failures in a line."""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from gateway.errors import StartRefused

# One writer at a time, as with SQLite, so that whoever decides something (which slice is free, whether the
# user has a session) has seen all that was decided before. SERIALIZABLE promises as much, but what fails
# there must be run again, which a `with` block cannot. The lock belongs to the transaction and goes with it,
# and with its connection. Its number is ours alone within the database.
_ONE_WRITER = int.from_bytes(b"gateway")

_CONNECTIONS_KEPT = 8  # a worker; the server's own default has room for 100 in all
_WAIT_FOR_ONE_SECONDS = 10

# Of libpq; the URL may say otherwise. A server that vanished from the network is noticed.
_CONNECTING = {
    "application_name": "gpu-ssh-gateway",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

# A transaction takes milliseconds. The last one: a process that is frozen within a transaction keeps the
# others waiting no longer than this.
_LIMITS = """
    SET statement_timeout = '10s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '5s'
"""


def make_engine(url: URL) -> Engine:
    """Raises `StartRefused` when the driver is missing."""
    try:
        engine = create_engine(
            url.set(query=_CONNECTING | dict(url.query)),
            pool_size=_CONNECTIONS_KEPT,
            max_overflow=0,
            pool_timeout=_WAIT_FOR_ONE_SECONDS,
            pool_pre_ping=True,  # the server may have been restarted since
            use_native_hstore=False,  # one question less for each connection
            hide_parameters=True,  # rows hold private keys, which an error would quote to the log
        )
    except ImportError as error:
        raise StartRefused(
            "--db (GATEWAY_DB): PostgreSQL's driver is missing here: "
            "`pip install 'gpu-ssh-gateway[postgresql]'`."
        ) from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute(_LIMITS)
        connection.commit()

    # READ COMMITTED, the server's default: each statement after the lock sees what the last writer committed.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("read_only"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")

    return engine


def cause(error: Any) -> str:
    """What a failure of the driver's says, in a line without SQL, values or addresses."""
    first_line: str = str(error).partition("\n")[0]
    return error.diag.message_primary or first_line.rpartition("failed: ")[2]


def is_disk_full(error: Any) -> bool:
    return bool(error.sqlstate == "53100")
