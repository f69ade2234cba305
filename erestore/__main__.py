"""The command ``erestore``, and ``python -m erestore``."""

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C is no traceback even while it is imported."""
    try:
        from erestore.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: Interrupted.\nhint: Repeat the command.\n")
        sys.stderr.flush()
        os._exit(130)
    run()


if __name__ == "__main__":
    main()
