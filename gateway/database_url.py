"""Where the rows of the sessions are: in a file of SQLite's, the default, or on a PostgreSQL server."""

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import StartRefused

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_SECRETS = ("password", "sslpassword")  # libpq accepts both as parameters of the URL


class DatabaseUrl:
    """An absolute path, or the URL of a PostgreSQL database.

    `path` is None for PostgreSQL. `str()` and `repr()` leave the password out; only `url`, for the driver,
    holds it. Raises `StartRefused` for any other text, which the message does not repeat.
    For a path, SQLAlchemy is not imported: gunicorn's arbiter would keep its 30 MB.
    """

    def __init__(self, text: str | Path) -> None:
        self._url = _parse(str(text)) if "://" in str(text) else None
        self.path = Path(text) if self._url is None else _path_of(self._url)
        if self.path is not None and not _is_plain(str(self.path)):
            raise StartRefused(
                "this is neither an absolute path nor a URL: use /PATH, or the form postgresql://USER@HOST/NAME."
            )

    @property
    def url(self) -> "URL":
        """The URL of a PostgreSQL database."""
        assert self._url is not None
        return self._url

    @property
    def has_password(self) -> bool:
        if self._url is None:
            return False
        return self._url.password is not None or any(name in self._url.query for name in _SECRETS)

    def __str__(self) -> str:
        """The path, or a URL without password that libpq's programs accept."""
        if self.path is not None:
            return str(self.path)
        query = {name: value for name, value in self.url.query.items() if name not in _SECRETS}
        shown = self.url.set(drivername="postgresql", query=query)._replace(password=None)
        return shown.render_as_string(hide_password=False)

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"


def _is_plain(path: str) -> bool:
    """Whether this is an absolute path, and not the rest of a mistyped URL such as //user:password@host."""
    return path.startswith("/") and not path.startswith("//")


def _path_of(url: "URL") -> Path | None:
    return Path(url.database or "") if url.drivername == "sqlite" else None


def _parse(text: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

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
