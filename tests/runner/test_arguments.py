"""What tyro says in a box of several lines is one line, in a terminal and elsewhere."""

from dataclasses import dataclass

import pytest

from agents.runner import arguments
from agents.runner.arguments import BadInput, bad_input, parse

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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--number INT"),
        (["--number", "x"], "--number"),
        (["--number", "1", "--numberr", "1"], "did you mean --number"),
        (["--number", "1", "more"], "more"),
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
    with pytest.raises(RuntimeError), bad_input():
        raise RuntimeError("not the user's")
