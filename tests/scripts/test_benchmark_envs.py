"""The benchmark of backends counts steps of single environments, and says why one is missing."""

from __future__ import annotations

import pytest

import envs
from scripts import benchmark_envs
from scripts.benchmark_envs import main, rate

SHORT = ["--rounds", "1", "--seconds", "0.001"]


def test_every_environment_of_a_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at the clock takes a second here: 4 steps of 3 environments in 6."""
    seconds = iter(range(100))
    monkeypatch.setattr("time.process_time", lambda: float(next(seconds)))
    assert rate(envs.make("CartPole-v1", 3), 5.0) == 4 * 3 / 6


def test_it_shows_the_median_of_each_backend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rounds are 1, 2, … thousand a backend in turn, so that the medians of three are 3, 4."""
    found = (1000.0 * n for n in range(1, 100))
    monkeypatch.setattr(benchmark_envs, "rate", lambda tasks, seconds: next(found))
    asked = ["--envs", "CartPole-v1", "--num-envs", "2", "--backends", "loop", "vector"]
    assert main([*asked, "--rounds", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| loop, vector | 2 |",
        "| --- | --- |",
        "| CartPole-v1 | 3, 4 |",
    ]


def test_what_cannot_be_stepped_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--envs", "CliffWalking-v1", "--num-envs", "1", "--backends", "loop", "vector"]
    assert main([*asked, *SHORT]) == 0
    *_, row, _, reason = capsys.readouterr().out.splitlines()
    assert row.endswith(", - |")
    assert reason == "backend is 'vector', and CliffWalking-v1 has no such form: use auto or loop"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--envs", "CartPole-v9"], "no environment"),
        (["--num-envs", "8", "0"], "--num-envs (8, 0): use numbers of 1 or more"),
        (["--seconds", "0"], "--seconds is 0.0: use 0.001 or more"),
        (["--backends", "fast"], "--backends"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1
