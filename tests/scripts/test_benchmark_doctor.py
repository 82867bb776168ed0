"""The bench of faults: what its cases are, how it counts, and one case trained and judged."""

import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agents.doctor.finding import Advice, Evidence, Finding
from agents.doctor.history import History
from agents.doctor.rules import RULES
from scripts import benchmark_doctor
from scripts.benchmark_doctor import (
    CALIBRATION,
    CASES,
    REPORTING,
    ROUNDS,
    Case,
    Course,
    Options,
    Verdict,
    folder_of,
    follow,
    follow_table,
    judge,
    kept,
    main,
    score,
    table,
    train_case,
)

FAULT = Case("a", "ppo", "CartPole-v1", right=("lr_too_high", "noise"))
WELL = Case("b", "dqn", "CartPole-v1")


def test_what_the_bench_has_to_cover() -> None:
    faults = [case for case in CASES if case.right]
    assert len(faults) >= 20
    assert len({case.agent for case in faults}) >= 4
    tasks = {case.env for case in faults}
    assert {"CartPole-v1", "Pendulum-v1", "LunarLander-v3"} <= tasks
    assert tasks <= {case.env for case in CASES if not case.right}
    lander = [case for case in faults if case.env == "LunarLander-v3"]
    assert len(lander) >= 2
    assert {case.twin for case in lander} <= set(CASES)
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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in CASES if case.name == "no-reward-ppo")
    short = Case(case.name, case.agent, case.env, 3000, case.right, change=case.change)
    options = Options(seeds=("0",), out=tmp_path)
    train_case(short, 0, tmp_path / case.name / "0")
    (verdict,) = judge(options, [short], [0])
    assert verdict.found[0] == "no_reward"
    assert judge(options, [case], [0]) == []  # which is longer now
    monkeypatch.setattr(benchmark_doctor, "CASES", (short,))
    assert main(["--judge", "--seeds", "0", "--out", str(tmp_path)]) == 0
    assert "first in 100%" in capsys.readouterr().out
    assert "first in 100%" in (tmp_path / "doctor.md").read_text()


def test_a_run_is_kept_for_as_long_as_its_case_says_the_same(tmp_path: Path) -> None:
    options = Options(out=tmp_path)
    case = Case("c", "reinforce", "CartPole-v1", 50, base="--num-envs 1")
    assert not kept(options, case, 0)
    train_case(case, 0, folder_of(options, case, 0))
    assert kept(options, case, 0)
    assert not kept(options, Case("c", "reinforce", "CartPole-v1", 60, base="--num-envs 1"), 0)


def test_cases_reach_another_process() -> None:
    assert pickle.loads(pickle.dumps(CASES)) == CASES


# ----------------------------------------------------------------------------- following advice


def test_what_is_followed_is_faults_of_the_settings_alone() -> None:
    followed = {case.name for case in CASES if case.in_config}
    assert {"lr-high-ppo", "vanishing-dqn", "drowned-a2c", "small-replay-dqn"} <= followed
    elsewhere = {
        "large-reward-dqn",
        "exploding-ppo",
        "truncation-ppo",
        "deaf-ppo",
        "plasticity-dqn",
    }
    assert not followed & (elsewhere | {case.name for case in CASES if not case.right})


def test_the_twin_is_the_case_without_its_fault() -> None:
    by_name = {case.name: case for case in CASES}
    for case in CASES:
        twin = case.twin
        flags = case.flags(3)
        assert twin.flags(3) == flags[: len(flags) - len(case.settings.split())]
        assert (twin.agent, twin.right, twin.in_config) == (case.agent, (), False)
        assert by_name.setdefault(twin.name, twin) == twin  # or two would share a folder


def returning(first: float, last: float) -> History:
    """A run whose training episodes return one thing and whose last evaluations another."""
    steps = np.arange(1.0, 21)
    evaluations = np.where(steps > 16, last, 10 * first)
    return History(
        {},
        {"step": steps, "return": np.full(20, first), "length": np.ones(20)},
        {},
        {},
        {"step": steps, "mean_return": evaluations},
    )


@pytest.mark.parametrize(
    ("final", "share"), [(-1200.0, 0.0), (-200.0, 1.0), (-300.0, 0.9), (-1300.0, -0.1), (0.0, 1.2)]
)
def test_a_score_is_the_share_of_what_the_healthy_run_gained(final: float, share: float) -> None:
    """Returns are negative: 90 % of -200 would be -180, which is more."""
    assert score(returning(5.0, final), returning(-1200.0, -200.0)) == pytest.approx(share)


def test_where_the_healthy_run_gained_nothing_there_is_no_score() -> None:
    assert math.isnan(score(returning(20.0, 500.0), returning(20.0, 20.0)))


RATES = {0: "0.3", 1: "0.1", 2: "0.03", 3: "0.01"}
LOW = Case("low", "ppo", "CartPole-v1", 100, ("lr_too_high",), "--agent.optim.lr 1")


@pytest.mark.parametrize(
    ("returns", "rates", "cured"),
    [
        ([20, 460], ["0.3"], [True, True]),
        ([20, 400, 300, 455], ["0.3", "0.1", "0.03"], [False, True]),
        ([20, 30, 40, 50], ["0.3", "0.1", "0.03"], [False, False]),
        ([470, 30, 500], ["0.3", "0.1"], [False, True]),  # a fault that does no harm is none cured
    ],
)
def test_advice_is_followed_until_it_helps_or_for_three_rounds(
    returns: list[float], rates: list[str], cured: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Case] = []

    def train(options: Options, runs: Sequence[tuple[Case, int]]) -> None:
        trained.extend(case for case, seed in runs)

    def read(options: Options, case: Case, seed: int) -> History:
        if case == LOW.twin:
            return returning(0.0, 500.0)
        return returning(0.0, returns[trained.index(case) - 1])

    def advise(run: History) -> list[Finding]:
        value = float(RATES[[*returns].index(run.evaluated.values[-1])])
        words, advice = Advice("look at it"), Advice("", "agent.optim.lr", value)
        return [Finding(RULES[0], Evidence("", (words, advice)))]

    monkeypatch.setattr(benchmark_doctor, "train_all", train)
    monkeypatch.setattr(benchmark_doctor, "history_of", read)
    monkeypatch.setattr(benchmark_doctor, "diagnose", advise)
    (course,) = follow(Options(), [LOW], [7])
    assert course.changes == [f"--agent.optim.lr {rate}" for rate in rates]
    assert [course.cured(1), course.cured(ROUNDS)] == cured
    assert trained[:2] == [LOW.twin, LOW]
    assert len({case.name for case in trained}) == len(trained) == 2 + len(rates)


def test_a_run_that_no_advice_is_given_for_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {LOW: returning(0.0, 20.0), LOW.twin: returning(0.0, 500.0)}
    monkeypatch.setattr(benchmark_doctor, "train_all", lambda options, runs: None)
    monkeypatch.setattr(benchmark_doctor, "history_of", lambda options, case, seed: read[case])
    monkeypatch.setattr(benchmark_doctor, "diagnose", lambda run: [])
    (course,) = follow(Options(), [LOW], [7])
    assert (course.scores, course.changes, course.cured(ROUNDS)) == ((0.04,), [], False)


def test_the_table_of_advice_ends_with_the_shares() -> None:
    def course(*scores: float) -> Course:
        settings = ["", " --agent.optim.lr 0.1", " --agent.optim.lr 0.1 --agent.epochs 2"]
        cases = [Case("low", "ppo", "CartPole-v1", settings=s) for s in settings[: len(scores)]]
        return Course(0, tuple(cases), scores)

    text = follow_table([course(0.1, 0.95), course(0, 0.5, 1), course(-0.1), course(math.nan)])
    row = "| low | 0 | 0% | `--agent.optim.lr 0.1`: 50% | `--agent.epochs 2`: 100% |  |"
    *_, left, last = text.splitlines()
    assert row in text
    assert left.startswith("1 runs are not counted")
    assert last.startswith("3 runs ")
    assert "33% reach 90% of what the healthy run gained, 67% within 3 rounds" in last


def test_a_fault_is_trained_and_healed_by_what_the_doctor_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(
        *("low", "ppo", "CartPole-v1", 1500, ("lr_too_low",), "--agent.optim.lr 1e-8"),
        base="--num-envs 2 --agent.rollout-size 128 --agent.epochs 4 --agent.optim.stats-every 8",
    )

    def train(options: Options, runs: Sequence[tuple[Case, int]]) -> None:
        for one, seed in runs:
            if not kept(options, one, seed):
                train_case(one, seed, folder_of(options, one, seed))

    monkeypatch.setattr(benchmark_doctor, "train_all", train)
    monkeypatch.setattr(benchmark_doctor, "ROUNDS", 1)
    monkeypatch.setattr(benchmark_doctor, "CASES", (case,))
    arguments = ["--follow", "--seeds", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "`--agent.optim.lr 0.001`" in said
    assert said.splitlines()[-1].startswith("1 runs with a fault in their settings")
    assert main([*arguments, "--judge"]) == 0
    assert capsys.readouterr().out == said == (tmp_path / "follow.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nothing"], "--cases nothing: there is lr-high-ppo"),
        (["--seeds", "x"], "--seeds x"),
        (["--judge"], "holds no run"),
        (["--judge", "--follow"], "holds no run"),
        (["--follow", "--cases", "deaf"], "--cases deaf: there is lr-high-ppo"),
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
