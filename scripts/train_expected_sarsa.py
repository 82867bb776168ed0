"""Trains expected SARSA in an environment, as the options say: `--help` explains them."""

import sys

try:
    import envs  # noqa: F401 (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents import ExpectedSARSA
    from agents.runner.cli import main
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main(ExpectedSARSA))
