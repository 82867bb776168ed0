"""What tyro says in a box of several lines is one line, in a terminal and elsewhere."""

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from agents.runner import arguments
from agents.runner.arguments import BadInput, bad_input, check_ranges, guarded, parse
from tests.runner.fakes import unread

TERMINAL = """\
\x1b[31m╭─\x1b[0m\x1b[31m Unrecognized options \x1b[0m\x1b[31m──────────────────╮\x1b[0m
\x1b[31m│\x1b[0m Unrecognized options: --agent.optm.lr,    \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m 3                                         \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m \x1b[31m──────────────────────────────────────\x1b[0m \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m Perhaps you meant:                        \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m     --agent.optim.lr FLOAT                \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m         Learning rate. (default: 0.0003)  \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m     --agent.optim.l1 FLOAT                \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m \x1b[31m──────────────────────────────────────\x1b[0m \x1b[31m│\x1b[0m
\x1b[31m│\x1b[0m For full helptext, run train_ppo.py --help│
\x1b[31m╰────────────────────────────────────────────╯\x1b[0m
"""
PIPE = """\
 Unrecognized options
 ------------------------------------------
  Unrecognized options: --agent.optm.lr, 3
  ------------------------------------------
  Perhaps you meant:
      --agent.optim.lr FLOAT
          Learning rate. (default: 0.0003)
      --agent.optim.l1 FLOAT
  ------------------------------------------
  For full helptext, run train_ppo.py --help

"""


@pytest.mark.parametrize("complaint", [TERMINAL, PIPE])
def test_a_box_becomes_a_line(complaint):
    assert arguments._condensed(complaint) == (
        "Unrecognized options: --agent.optm.lr, 3: did you mean --agent.optim.lr, --agent.optim.l1?"
    )


@dataclass
class Options:
    number: int
    """A number."""
    share: float = 0.5
    """A share."""
    most: int | None = None
    """Another number."""
    threads: int | Literal["auto"] = 1
    """One more."""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--number INT"),
        (["--number", "1e3"], "--number is 1e3: use a whole number"),
        (["--number", "1", "--share", "half"], "--share is half: use a number"),
        (["--number", "1", "--most", "1e3"], "--most is 1e3: use a whole number or None"),
        (["--number", "1", "--threads", "x"], "--threads is x: use a whole number or auto"),
        (["--number", "1", "--numberr", "1"], "did you mean --number"),
        (["--number", "1", "more"], "more"),
        (["--number", "1", "a", "b"], "a, b is too much: give one run at a time, and settings"),
        (["--number", "1", "a", "--b"], "Unrecognized options: a, --b"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(argv, message):
    with pytest.raises(BadInput) as error:
        parse(Options, argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "──" not in str(error.value)


def test_errors_of_input_become_one_line(tmp_path):
    for error in (ValueError("a\nb"), ImportError("a\n  b")):
        with pytest.raises(BadInput, match=r"^a b$"), bad_input():
            raise error
    with pytest.raises(BadInput, match="nowhere: No such file"), bad_input():
        (tmp_path / "nowhere").read_text()
    with pytest.raises(BadInput, match="MemoryError"), bad_input():
        raise MemoryError
    with pytest.raises(RuntimeError), bad_input():
        raise RuntimeError("not the user's")
    with pytest.raises(BadInput, match="too large"), bad_input(RuntimeError):
        raise RuntimeError("too large")


@pytest.mark.parametrize(
    ("number", "message"),
    [(0, "--number is 0: use 1 to 9"), (10, "--number is 10: use 1 to 9"), (9, None), (None, None)],
)
def test_a_number_out_of_its_range_is_named(number, message):
    options = SimpleNamespace(number=number)
    expected: Any = pytest.raises(BadInput, match=f"^{message}$") if message else nullcontext()
    with expected:
        check_ranges(options, number=(1, 9))


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(BadInput("no"), 2, "a.py: no\n"), (KeyboardInterrupt(), 130, ""), (None, 0, "")],
)
def test_a_script_ends_with_its_exit_code(error, code, said, capsys):
    def run():
        if error is not None:
            raise error
        return 0

    assert guarded("a.py", run) == code
    assert capsys.readouterr().err == said


def test_a_reader_that_reads_no_further_gets_no_traceback():
    code = (
        "from agents.runner.arguments import guarded\n"
        "def run():\n"
        "    for _ in range(100_000):\n"
        "        print('a line')\n"
        "    return 0\n"
        "raise SystemExit(guarded('a.py', run))\n"
    )
    assert unread(code, "stdout") == ("a line\n", "a.py: [Errno 32] Broken pipe\n", 141)
