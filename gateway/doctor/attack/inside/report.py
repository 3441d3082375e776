"""Runs one attempt and prints its outcome as one line of JSON.

Every script that runs inside ends with this.
"""

import json
import sys
from typing import Any


def report(attempts: dict[str, Any]) -> None:
    """Run the attempt that `sys.argv` names; the second argument has its parameters as a JSON object."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    try:
        verdict, why = "through", attempts[name](**arguments)
    except OSError as error:
        verdict, why = "stopped", f"{error.strerror or error}"
    except NotImplementedError as reason:
        verdict, why = "untried", str(reason)
    print(json.dumps({"verdict": verdict, "why": why}))
