"""Where the checkout under test and its programs are."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
