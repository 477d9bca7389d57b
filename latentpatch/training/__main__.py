"""``python -m latentpatch.training``."""

import sys

from .train import main

sys.exit(main())
