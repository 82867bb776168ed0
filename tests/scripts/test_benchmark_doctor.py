"""The bench of faults: what its cases are, how it counts, and one case trained and judged."""

from pathlib import Path

import pytest

from agents.doctor.rules import RULES
from scripts.benchmark_doctor import (
    CALIBRATION,
    CASES,
    REPORTING,
    Case,
    Options,
    Verdict,
    judge,
    main,
    table,
    train_case,
)

FAULT = Case("a", "ppo", "CartPole-v1", right=("lr_too_high", "noise"))
WELL = Case("b", "dqn", "CartPole-v1")


def test_what_the_bench_has_to_cover() -> None:
    faults = [case for case in CASES if case.right]
    assert len(faults) >= 20
    assert len({case.agent for case in faults}) >= 4
    assert len({case.name for case in CASES}) == len(CASES)
    assert {name for case in faults for name in case.right} == {rule.name for rule in RULES}
    assert not set(CALIBRATION) & set(REPORTING)


@pytest.mark.parametrize(
    ("case", "found", "first", "second"),
    [
        (FAULT, ("lr_too_high",), True, True),
        (FAULT, ("noise", "exploding"), True, True),
        (FAULT, ("exploding", "lr_too_high"), False, True),
        (FAULT, ("exploding", "vanishing", "lr_too_high"), False, False),
        (FAULT, (), False, False),
        (WELL, (), True, True),
        (WELL, ("exploding",), False, False),
    ],
)
def test_what_counts_as_right(
    case: Case, found: tuple[str, ...], first: bool, second: bool
) -> None:
    verdict = Verdict(case, 0, found)
    assert (verdict.first, verdict.second) == (first, second)


def test_the_table_counts() -> None:
    text = table(
        [
            Verdict(FAULT, 0, ("lr_too_high",)),
            Verdict(FAULT, 1, ("exploding", "noise")),
            Verdict(WELL, 0, ()),
            Verdict(WELL, 1, ("noise",)),
        ]
    )
    assert "| a | lr_too_high or noise | 0: lr_too_high; 1: exploding, noise | 1/2 | 2/2 |" in text
    assert "first in 50%, in the first two in 100%" in text
    assert "2 healthy runs: 1 false alarms" in text


def test_a_fault_is_trained_kept_and_judged_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in CASES if case.name == "no-reward-ppo")
    short = Case(case.name, case.agent, case.env, 3000, case.right, change=case.change)
    options = Options(seeds=("0",), out=tmp_path)
    train_case(short, 0, tmp_path / case.name / "0")
    (verdict,) = judge(options, CASES, [0])
    assert verdict.found[0] == "no_reward"
    assert main(["--judge", "--seeds", "0", "--out", str(tmp_path)]) == 0
    assert "first in 100%" in capsys.readouterr().out
    assert "first in 100%" in (tmp_path / "doctor.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nothing"], "--cases nothing: there is lr-high-ppo"),
        (["--seeds", "x"], "--seeds x"),
        (["--judge"], "holds no run"),
        (["--jobs", "0"], "--jobs is 0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
