"""Trains NPG in an environment, as the options say: `--help` explains them."""

import sys

import envs  # noqa: F401 (first: it says so if `agents` is another distribution's)

# isort: split
from agents import NPG
from agents.runner.cli import main

if __name__ == "__main__":
    sys.exit(main(NPG))
