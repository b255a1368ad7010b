"""`attnlab` and `python -m attnlab`: the command line, from the first import on."""

import sys


def main() -> None:
    """The console script."""
    try:
        from attnlab.cli import main as run
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
