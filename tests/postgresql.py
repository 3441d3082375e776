"""A PostgreSQL server of the tests' own: on a unix socket in a directory of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import psycopg

PASSWORD = "s3cr3t/@word"
_ACCOUNT = "postgres"
_IS_ROOT = os.geteuid() == 0 and "FAKEROOTKEY" not in os.environ  # fakeroot only pretends, by LD_PRELOAD


def programs() -> Path:
    """The newest that is installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    assert found, "PostgreSQL is not installed: docker/install-host tests"
    return max(found, key=lambda path: float(path.parent.name))


class PostgresServer:
    """Everybody needs a password. Started by root it runs as the user postgres: it refuses to be root's.

    With an address, such as for clients in another network namespace, it listens there on `port`, too."""

    def __init__(self, address: str = "", port: int = 5432) -> None:
        self._address, self._port = address, port
        self.directory = Path(tempfile.mkdtemp(prefix="gateway-postgresql-"))
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if _IS_ROOT:
            for path in (self.directory, password):
                shutil.chown(path, _ACCOUNT)
        command: list[str | Path] = [
            programs() / "initdb",
            "--username=gateway",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
        ]
        command += ["--no-sync", "--locale=C", "--encoding=UTF8", self.directory / "data"]
        subprocess.run(self._as_user(*command), check=True, capture_output=True, cwd=self.directory)
        with open(self.directory / "data/pg_hba.conf", "a") as file:
            file.write("host all all all scram-sha-256\n")
        self.start()

    def start(self) -> None:
        options: list[str | Path] = [
            "-F",
            "-h",
            self._address,
            "-p",
            str(self._port),
            "-k",
            self.directory,
            "-c",
            "shared_buffers=16MB",
            "-c",
            "max_connections=50",
        ]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._as_user(programs() / "postgres", "-D", self.directory / "data", *options),
                cwd=self.directory,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.ask("SELECT 1")
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.directory / "log").read_text()[-2000:]
                time.sleep(0.02)

    def stop(self) -> None:
        """At once: whoever is connected is cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(timeout=30)

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def url(self, name: str, user: str = "gateway", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{quote(password, '')}@/{name}?host={self.directory}&port={self._port}"

    def network_url(self, name: str) -> str:
        """The URL of a database for clients elsewhere."""
        return f"postgresql://gateway:{quote(PASSWORD, '')}@{self._address}:{self._port}/{name}"

    def create(self, template: str = "template0") -> str:
        """The URL of a new database."""
        name = f"d{uuid.uuid4().hex}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def _as_user(self, *command: str | Path) -> list[str | Path]:
        """It ends with the tests, however they end."""
        switch = ["--reuid", _ACCOUNT, "--regid", _ACCOUNT, "--clear-groups"] if _IS_ROOT else []
        return ["env", "--unset=LD_PRELOAD", "setpriv", "--pdeathsig", "INT", *switch, *command]
