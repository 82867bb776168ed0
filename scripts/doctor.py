"""Says what is wrong with a run and which setting to change, from what it recorded.

python scripts/doctor.py runs/ppo-CartPole-v1-0
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
    from agents.doctor.rules import diagnose
    from agents.doctor.verdict import verdict
    from agents.runner.arguments import bad_input, guarded, parse
    from agents.runner.results import read_run
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)


@dataclass(frozen=True)
class Options:
    """Diagnose a run, finished or not."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 whatever is found, 2 with one line for bad input."""

    def run() -> int:
        with bad_input():
            options = parse(Options, sys.argv[1:] if argv is None else argv)
            record = read_run(options.run)
            history = record.history()
            findings = diagnose(history)
        title = f"{record.agent} on {record.env}, seed {record.seed}, {history.steps:,.0f} steps"
        if not findings:
            word, because = verdict(history, findings)
            print(f"{title}: {word}\n{because}")
        else:
            print(f"{title}: {len(findings)} finding{'s' if len(findings) > 1 else ''}")
            for number, finding in enumerate(findings, 1):
                print(f"\n{number}. {finding}")
        return 0

    return guarded("doctor.py", run)


if __name__ == "__main__":
    sys.exit(main())
