"""The former name of :mod:`latentpatch.serving.app`, as in ``python -m latentpatch.serving.http``."""

import sys

from .app import Options, application, main

__all__ = ["Options", "application", "main"]

if __name__ == "__main__":
    sys.exit(main())
