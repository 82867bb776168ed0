"""A command line into a dataclass, and every error into one clear line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import gymnasium
import tyro

T = TypeVar("T")


class BadInput(ValueError):
    """Something the user can put right; the message says what, in one line."""


def parse(cls: type[T], argv: Sequence[str], default: T | None = None) -> T:
    """A dataclass from the command line. Raises BadInput with one line for what tyro objects to."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if default is None:
                return tyro.cli(cls, args=argv)
            return tyro.cli(cls, args=argv, default=default)
    except SystemExit as exit:
        if not exit.code:
            raise  # --help
        raise BadInput(_condensed(complaint.getvalue())) from None


def parse_known(cls: type[T], argv: Sequence[str]) -> T | None:
    """The same of the flags that the dataclass has, past all others; None if one is wrong."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(cls, args=argv, return_unknown_args=True, add_help=False)[0]
    except SystemExit:
        return None


def _condensed(complaint: str) -> str:
    """What stands in tyro's box of several lines, as one."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", complaint)  # without colours
    lines = [line.strip("╭╮╰╯│ ") for line in plain.splitlines()[1:]]  # without the title
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip("─-"):
            parts[-1].append(line)
        else:
            parts.append([])
    said, *others = (part for part in parts if part)
    hints = [
        line.split()[0]
        for part in others
        for line in part[1:]
        if part[0].startswith("Perhaps you meant") and line.startswith("--")
    ]
    return " ".join(said) + (f": did you mean {', '.join(hints)}?" if hints else "")


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Turns an error that the user's input caused into a BadInput of one line."""
    try:
        yield
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}") from None
    except (ValueError, ImportError, gymnasium.error.Error) as error:
        raise BadInput(" ".join(str(error).split())) from None
