"""``python -m latentpatch.training``."""

import sys

from . import main

sys.exit(main())
