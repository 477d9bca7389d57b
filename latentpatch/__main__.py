"""``latentpatch`` and ``python -m latentpatch``."""

import signal
import sys


def run() -> int:
    """Run the command line, and return its exit status; Ctrl-C is heeded from the first import to the last file."""
    try:
        from .cli.entry import main

        status = main()
    except KeyboardInterrupt:  # while modules are imported
        print("latentpatch: interrupted, nothing was written", file=sys.stderr)
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of Python, with its libraries, takes its time
    return status


if __name__ == "__main__":
    sys.exit(run())
