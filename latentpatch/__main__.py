"""``latentpatch`` and ``python -m latentpatch``."""

import os
import signal
import sys


def run() -> int:
    """Run the command line, and return its exit status; Ctrl-C is heeded from the first import to the last file."""
    try:
        from .cli.entry import main

        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads what is printed, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's end would fail on it
        status = 1
    except KeyboardInterrupt:  # while modules are imported
        print("latentpatch: interrupted, nothing was written", file=sys.stderr)
        status = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of Python, with its libraries, takes its time
    return status


if __name__ == "__main__":
    sys.exit(run())
