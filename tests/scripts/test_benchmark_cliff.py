"""The cliff: what differs is the target alone, and SARSA fares better while it explores."""

import re
import sys

import pytest

from scripts.benchmark_cliff import GOAL, START, Options, drawing, main, q_learning, sarsa

LAST = re.compile(r"sarsa=(\S+) q_learning=(\S+)")


def test_sarsa_gets_more_while_it_learns(capsys):
    assert main(["--seeds", "100", "--episodes", "40"]) == 0
    out = capsys.readouterr().out.splitlines()
    last = LAST.fullmatch(out[-1])
    assert last is not None
    ours, theirs = map(float, last.groups())
    assert 0 > ours > theirs
    assert sum(row.startswith("S # # # # # # # # # # G") for row in out) == 2


def test_the_agents_have_their_settings_in_common():
    (_, on), (_, off) = sarsa(Options()), q_learning(Options())
    differing = {"loss", "target_every", "td_lambda", "epochs", "batch_size"}
    for name in set(vars(on)) & set(vars(off)) - differing - {"network"}:
        if name != "epsilon_steps":  # ε does not change
            assert getattr(on, name) == getattr(off, name), name
    assert on.epsilon_start == on.epsilon_end == off.epsilon_end
    assert (on.target_every, on.tau, on.epochs, off.epochs, on.td_lambda, off.td_lambda) == (
        *(1, 1.0, 1, 1),
        *(0.0, 0.0),
    )


def test_a_path_is_drawn_on_the_grid():
    path = [START, START - 12, *range(START - 11, START), GOAL]
    assert drawing(path).splitlines() == [
        ". . . . . . . . . . . .",
        ". . . . . . . . . . . .",
        "* * * * * * * * * * * *",
        "S # # # # # # # # # # G",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seeds", "5-0"], "--seeds 5-0: the range ends before it begins"),
        (["--epsilon", "2"], "epsilon_start is 2.0: use a probability"),
        (["--step-size", "0"], "optim.lr is 0.0: use a positive number"),
        (["--steps", "3"], "--steps"),
    ],
)
def test_bad_input(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(words))  # as the script ends
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
