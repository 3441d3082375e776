"""The application for a plain `gunicorn wsgi:app`. The settings come from the GATEWAY_* variables."""

import os
import sys

from gateway.app import Gateway, create_app, require_own_database
from gateway.errors import StartRefused
from gateway.logs import log_to_stderr
from gateway.settings import Settings

_GUNICORN_APP_LOAD_ERROR = 4  # the arbiter stops; otherwise it would restart workers for ever

os.umask(os.umask(0) | 0o022)
try:
    settings = Settings.from_env()
    log_to_stderr(settings.log_format)
    require_own_database(settings)
    app = create_app(settings)
except StartRefused as error:
    for line in str(error).splitlines():
        print(f"gateway: {line}", file=sys.stderr)
    sys.exit(_GUNICORN_APP_LOAD_ERROR)
Gateway.of(app).reaper.start()
