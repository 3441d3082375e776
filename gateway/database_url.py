"""Where the sessions' rows are: in a file (SQLite, the default), or with a PostgreSQL server, by URL."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.errors import StartRefused

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SECRETS = ("password", "sslpassword")  # of libpq, when they stand behind the question mark


class DatabaseUrl:
    """`path` is None for PostgreSQL. Written out, it is without its password.

    Raises `StartRefused` for text that is neither an absolute path nor a URL of these two.
    """

    def __init__(self, text: str | Path) -> None:
        self.url = _parse(str(text))
        self.path = Path(self.url.database or "") if self.url.drivername == "sqlite" else None
        if self.path is not None and not self.path.is_absolute():
            raise _refused("give an absolute path, or a URL such as postgresql://USER@HOST/NAME.")

    @property
    def has_password(self) -> bool:
        return self.url.password is not None or any(name in self.url.query for name in _SECRETS)

    def __str__(self) -> str:
        """The path, or a URL that libpq's programs understand too."""
        if self.path is not None:
            return str(self.path)
        url = self.url
        query = {name: value for name, value in url.query.items() if name not in _SECRETS}
        shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
        return shown.render_as_string(hide_password=False)

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"


def _parse(text: str) -> URL:
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _refused("this is no URL; one looks like postgresql://USER:PASSWORD@HOST:5432/NAME.") from None
    if "@" in (url.host or ""):
        raise _refused("write an @ within the password as %40.")
    if url.drivername in _SQLITE:
        return url.set(drivername="sqlite")
    if url.drivername in _POSTGRESQL:
        return url.set(drivername="postgresql+psycopg")
    raise _refused(f"{url.drivername} is neither sqlite nor postgresql.")


def _refused(problem: str) -> StartRefused:
    return StartRefused(f"--db (GATEWAY_DB): {problem}")
