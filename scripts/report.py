"""Writes what runs recorded, and what the doctor says of it, as one self-contained HTML file.

python scripts/report.py runs/ppo-CartPole-v1-* --out report.html
"""

from __future__ import annotations

import sys

try:
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    import tyro

    import envs  # noqa: F401 (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents.core.files import write_bytes
    from agents.report.page import render
    from agents.runner.arguments import BadInput, bad_input, guarded, parse
    from agents.runner.results import read_runs
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)


@dataclass(frozen=True)
class Options:
    """Write a report of runs: returns, gradients, statistics, diagnosis and settings."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    out: Path | None = None
    """The file to write; None: report.html in the folder of the first run."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        with bad_input():
            options = parse(Options, sys.argv[1:] if argv is None else argv)
            if not options.runs:
                raise BadInput("no run was given: name one or more folders of runs")
            out = options.out or options.runs[0] / "report.html"
            if out.suffix != ".html":
                raise BadInput(f"--out {out}: the name has to end in .html")
            page = render(read_runs(options.runs))
            out.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(out, page.encode())
            print(out)
        return 0

    return guarded("report.py", run)


if __name__ == "__main__":
    sys.exit(main())
