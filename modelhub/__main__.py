"""``python -m modelhub``."""

import sys

from modelhub.cli import main

sys.exit(main())
