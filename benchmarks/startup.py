"""How soon the command line answers, and that it loads neither torch nor numba to do so.

    python benchmarks/startup.py

`attnlab --help` under 0.3 s and `attnlab list` under 0.5 s: the median of ten processes, files in the
cache. What is loaded is read from the process itself.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import figures

HEAVY = ("torch", "numba", "matplotlib")
COMMANDS = (("--help", 0.3, HEAVY), ("list", 0.5, ("torch", "numba")))
RUN = "import sys; from attnlab.cli import main; sys.argv[0] = 'attnlab'; main()"
ASK = (
    "import sys\n"
    "from attnlab.cli import main\n"
    "try:\n    main()\n"
    "except SystemExit:\n    pass\n"
    "print(*(m for m in sys.modules if '.' not in m), file=sys.stderr)\n"
)


def main() -> int:
    asked = figures.parser(__doc__).parse_args()
    table = figures.start("Starting the command line", asked.threads)
    for command, limit, heavy in COMMANDS:
        times = []
        for _ in range(11):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", RUN, command], check=True, capture_output=True)
            times.append(time.perf_counter() - begun)
        seen = statistics.median(times[1:])  # the first fills the file cache
        spread = f"{min(times[1:]):.2f}–{max(times[1:]):.2f} s"
        table.add(f"attnlab {command}, seconds", seen, f"< {limit} s", seen < limit, spread)
        loaded = subprocess.run(
            [sys.executable, "-c", ASK, command], check=True, capture_output=True, text=True
        ).stderr.split()
        found = [m for m in heavy if m in loaded]
        names = f"of {', '.join(heavy)}"
        table.add(
            f"attnlab {command}, heavy modules loaded",
            len(found),
            "0",
            not found,
            ", ".join(found) or names,
        )
    return table.end(asked.json)


if __name__ == "__main__":
    sys.exit(main())
