"""Run one attempt and say what came of it, as one line of JSON: the end of every script sent inside."""

import json
import sys
from typing import Any


def report(attempts: dict[str, Any]) -> None:
    """`argv`: the attempt's name, and its arguments as a JSON object."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    try:
        verdict, why = "through", attempts[name](**arguments)
    except OSError as error:
        verdict, why = "stopped", f"{error.strerror or error}"
    except NotImplementedError as reason:
        verdict, why = "untried", str(reason)
    print(json.dumps({"verdict": verdict, "why": why}))
