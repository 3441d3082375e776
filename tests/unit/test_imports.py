"""What long-running and often-called commands do not load: each megabyte and each moment counts there."""

import subprocess
import sys

import pytest

HEAVY = {"sqlalchemy", "flask", "docker", "ruamel", "lightkube", "alembic"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_arbiter_of_gunicorn_loads_only_what_it_needs() -> None:
    """Only its workers, which are forks, load the application."""
    serve = "from gateway.cli import gateway, serving; from gateway.server import Server; serving.Settings()"
    assert not loaded_by(serve) & HEAVY


@pytest.mark.parametrize("command", ["create", "sessions", "gpus", "events", "queue", "usage", "why"])
def test_a_command_that_calls_the_api_loads_no_part_of_the_server(command: str) -> None:
    assert not loaded_by(f"import gateway.cli.{command}") & HEAVY
