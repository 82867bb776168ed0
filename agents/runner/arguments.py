"""A command line into a dataclass, and every error into one clear line."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import gymnasium
import tyro

T = TypeVar("T")

BAD_INPUT, GAVE_UP, INTERRUPTED, UNREAD = 2, 3, 130, 141
"""Exit codes."""
MAX_THREADS = 1024
MAX_SEEDS = 10_000
WORDS = {"INT": "a whole number", "FLOAT": "a number"}
"""What tyro's names for types mean."""
WRONG_TYPE = (
    (r"invalid literal for int\(\) with base 10: '(.*)'", "INT"),
    (r"could not convert string to float: '(.*)'", "FLOAT"),
    (r"no type matching (\S+) could be instantiated from \['(.*)'\]\.", ""),
)
"""How tyro complains of a value, and of which type it was to be where it does not say."""


class BadInput(ValueError):
    """Something the user can put right; the message says what, in one line."""


def guarded(name: str, run: Callable[[], int]) -> int:
    """What a script ends with: 2 with one line for bad input, 130 after Ctrl-C, 141 where nobody
    reads its output any more, as of `| head`.
    """
    try:
        return run()
    except BadInput as error:
        print(f"{name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        with contextlib.suppress(OSError):
            print(f"{name}: {error}", file=sys.stderr)
        return UNREAD


def parse(
    cls: type[T], argv: Sequence[str], default: T | None = None, description: str | None = None
) -> T:
    """A dataclass from the command line. Raises BadInput with one line for what tyro objects to."""
    given: dict[str, Any] = {} if default is None else {"default": default}
    flag = "--env-options"
    if sum(word.replace("_", "-").partition("=")[0] == flag for word in argv) > 1:
        raise BadInput(f"{flag} is given twice: write all options behind one, like a=1 b=2")
    with _one_line():
        return tyro.cli(cls, args=argv, description=description, **given)


def parse_known(cls: type[T], argv: Sequence[str]) -> T:
    """The same of the flags that the dataclass has, past all others."""
    with _one_line():
        return tyro.cli(cls, args=argv, return_unknown_args=True, add_help=False)[0]


WORDS_FOR = {"true": True, "false": False, "none": None}
"""Values that Python and JSON write differently."""
UNCLEAR = ("yes", "no", "on", "off")
OURS = ("id", "num_envs", "seed", "backend", "render_mode")
"""What `envs.make` takes that is no option of the environment, or would draw it."""


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Options of an environment from words like size=30, the values as JSON, else as text.

    Raises ValueError for a word that is none, a name that is not for here or comes twice, and a
    value that could be meant otherwise.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name.isidentifier() or not equals:
            raise ValueError(f"{word} is no option: write a name and its value, like size=30")
        if name in OURS:
            raise ValueError(f"{name} is no option of the environment itself: leave it out here")
        if name in options:
            raise ValueError(f"{name} is given twice")
        if text.lower() in UNCLEAR:
            raise ValueError(f"{word}: write true or false, or the word as JSON, in quotes")
        options[name] = _value(text)
        try:
            json.dumps(options[name], allow_nan=False)
        except ValueError:
            raise ValueError(f"{word}: use a finite number") from None
    return options


def _value(text: str) -> Any:
    if text.lower() in WORDS_FOR:
        return WORDS_FOR[text.lower()]
    for read in (json.loads, float):  # float: of .5, which JSON writes 0.5
        with contextlib.suppress(ValueError):
            return read(text)
    return text


EnvOptions = Annotated[
    dict[str, Any],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=VALUE ...]",
        instance_from_str=_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{k}={json.dumps(v)}" for k, v in value.items()],
    ),
]
"""What an environment is made with beside its id, as words on the command line."""


def seed_list(words: Sequence[str]) -> list[int]:
    """Seeds from words like 7 and 100-104, both ends included, each once and in order."""
    if not words:
        raise ValueError("--seeds is empty: write a seed like 100 or a range like 100-104")
    seeds: dict[int, None] = {}
    for word in words:
        if not (match := re.fullmatch(r"(\d+)(?:-(\d+))?", word)):
            raise ValueError(f"--seeds {word}: write a seed like 100 or a range like 100-104")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"--seeds {word}: the range ends before it begins")
        if last - first < MAX_SEEDS:
            seeds.update(dict.fromkeys(range(first, last + 1)))
        if last - first >= MAX_SEEDS or len(seeds) > MAX_SEEDS:
            raise ValueError(f"--seeds {word}: give {MAX_SEEDS:,} seeds at the most")
    return list(seeds)


def check_ranges(options: Any, **ranges: tuple[float, float]) -> None:
    """Raise BadInput for the first of these fields that is neither None nor in its range."""
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            flag = f"--{name.replace('_', '-')}"
            right = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise BadInput(f"{flag} is {value}: use {right}")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            yield
    except SystemExit as exit:
        if not exit.code:
            raise  # --help
        raise BadInput(_condensed(complaint.getvalue())) from None


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
    if (said_plainly := _in_plain_words(" ".join(said))) is not None:
        return said_plainly
    hints = [
        line.split()[0]
        for part in others
        for line in part[1:]
        if part[0].startswith("Perhaps you meant") and line.startswith("--")
    ]
    return " ".join(said) + (f": did you mean {', '.join(hints)}?" if hints else "")


def _in_plain_words(said: str) -> str | None:
    """What tyro says of a value of the wrong type, without Python's words for it, and of words
    that belong to no flag."""
    for pattern, kind in WRONG_TYPE:
        if match := re.fullmatch(rf"Error parsing (\S+): {pattern}", said):
            flag, *kinds, given = match.groups()
            wanted = sorted((kinds[0] if kinds else kind).split("|"), key="{None}".__eq__)
            names = [WORDS.get(name, name.strip("{}")) for name in wanted]
            return f"{flag} is {given}: use {' or '.join(names)}"
    left = said.removeprefix("Unrecognized options: ")
    if left != said and not any(word.startswith("-") for word in left.split(", ")):
        return f"{left} is too much: give one run at a time, and settings behind their flags"
    return None


@contextlib.contextmanager
def bad_input(*also: type[Exception]) -> Iterator[None]:
    """Turns an error that the user's input caused into a BadInput of one line.

    `also` are errors that have no other cause in this place.
    """
    known = (ValueError, ImportError, MemoryError, gymnasium.error.Error)
    errors: tuple[type[Exception], ...] = (*known, *also)
    try:
        yield
    except BadInput:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise BadInput(f"{where}{error.strerror or error}") from None
    except errors as error:
        raise BadInput(" ".join(str(error).split()) or type(error).__name__) from None
