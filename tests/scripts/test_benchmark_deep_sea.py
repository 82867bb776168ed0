"""The deep-exploration benchmark counts what it says it counts."""

import re
import sys

import pytest

from scripts.benchmark_deep_sea import main


def test_a_shallow_sea_is_solved_and_a_short_run_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """At size 2 the treasure is in one random episode of four; 99 episodes are never enough."""
    words = ["--agents", "bootstrapped_dqn", "dqn_boltzmann", "--seeds", "100-101", "--size", "2"]
    assert main(words) == 0
    *_, boots, boltzmann, last = capsys.readouterr().out.splitlines()
    for row in (boots, boltzmann):
        _, first, second, _ = row.split()
        assert 100 <= int(first) <= 2000
        assert 100 <= int(second) <= 2000
    assert last == "solved bootstrapped_dqn=2/2 dqn_boltzmann=2/2"
    assert main([*words, "--episodes", "99"]) == 0
    *_, boots, _, last = capsys.readouterr().out.splitlines()
    assert boots.split()[1:3] == ["-", "-"]
    assert last == "solved bootstrapped_dqn=0/2 dqn_boltzmann=0/2"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--agents", "ppo"], "--agents ppo: there is bootstrapped_dqn, dqn"),
        (["--seeds"], "--seeds is empty"),
        (["--episodes", "0"], "--episodes is 0: use 1 or more"),
        (["--size", "many"], "many"),
    ],
)
def test_bad_input(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(words))  # as the script ends
    assert stop.value.code == 2
    assert re.search(says, capsys.readouterr().err)
