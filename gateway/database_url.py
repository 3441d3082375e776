"""Where the rows of the sessions are: in a file of SQLite's, the default, or on a PostgreSQL server."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from gateway.errors import StartRefused

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SECRETS = ("password", "sslpassword")  # libpq accepts both as parameters of the URL


class DatabaseUrl:
    """An absolute path, or the URL of a PostgreSQL database.

    `path` is None for PostgreSQL. `str()` and `repr()` leave the password out; only `url`, for the driver,
    holds it. Raises `StartRefused` for any other text, which the message does not repeat.
    """

    def __init__(self, text: str | Path) -> None:
        self.url = _parse(str(text))
        self.path = Path(self.url.database or "") if self.url.drivername == "sqlite" else None
        if self.path is not None and not _is_plain(str(self.path)):
            raise StartRefused(
                "this is neither an absolute path nor a URL: use /PATH, or the form postgresql://USER@HOST/NAME."
            )

    @property
    def has_password(self) -> bool:
        return self.url.password is not None or any(name in self.url.query for name in _SECRETS)

    def __str__(self) -> str:
        """The path, or a URL without password that libpq's programs accept."""
        if self.path is not None:
            return str(self.path)
        url = self.url
        query = {name: value for name, value in url.query.items() if name not in _SECRETS}
        shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database, query)
        return shown.render_as_string(hide_password=False)

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"


def _is_plain(path: str) -> bool:
    """Whether this is an absolute path, and not the rest of a mistyped URL such as //user:password@host."""
    return path.startswith("/") and not path.startswith("//")


def _parse(text: str) -> URL:
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StartRefused(
            "this is no URL: use the form postgresql://USER:PASSWORD@HOST:5432/NAME, with characters such as "
            "/ and @ in the password written as %2F and %40."
        ) from None
    if url.drivername in _SQLITE:
        return url.set(drivername="sqlite")
    if url.drivername in _POSTGRESQL:
        if "@" in f"{url.host}{url.database}":
            raise StartRefused("the password holds an @: write it as %40.")
        return url.set(drivername="postgresql+psycopg")
    raise StartRefused(
        f"{url.drivername} is neither sqlite nor postgresql: use a path, or postgresql://USER@HOST/NAME."
    )
