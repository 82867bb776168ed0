"""The speed benchmark does the work it says it does, on both sides."""

import csv
import importlib.util
import re
from pathlib import Path

import pytest

from scripts.benchmark_speed import main

LAST = re.compile(r"ratio=(\S+) min=(\S+) max=(\S+)")
needs_sb3 = pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="Stable-Baselines3 is an extra"
)
PEERS = ["plain", pytest.param("sb3", marks=needs_sb3)]


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("agent", ["ppo", "dqn", "a2c"])
def test_both_sides_do_the_same_work(
    agent: str, peer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It refuses to compare unequal steps or updates; what it prints is what it writes."""
    out = tmp_path / "speed.csv"
    words = ["--agent", agent, "--peer", peer, "--steps", "2048", "--rounds", "2"]
    assert main([*words, "--out", str(out)]) == 0
    last = LAST.fullmatch(capsys.readouterr().out.splitlines()[-1])
    assert last is not None
    median, least, most = map(float, last.groups())
    rows = list(csv.DictReader(out.read_text().splitlines()))
    ratios = [float(row["steps_per_second"]) / float(row["peer_steps_per_second"]) for row in rows]
    assert [row["round"] for row in rows] == ["1", "2"]
    assert all(int(row["updates"]) > 0 for row in rows)
    assert (min(ratios), max(ratios)) == pytest.approx((least, most), rel=1e-2)
    assert least <= median <= most


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--agent", "sarsa"], "sarsa"),
        (["--agent", "ppo", "--env", "CartPole-v99"], "CartPole"),
        (["--agent", "dqn", "--env", "Pendulum-v1"], "Box"),
        (["--agent", "ppo", "--rounds", "0"], "--rounds is 0: use 1 or more"),
        (["--agent", "ppo", "--threads", "9999999999"], "use 1 to 1024"),
        (["--agent", "ppo", "--peer", "none"], "none"),
        (["--agent", "dqn", "--peer", "plain", "--steps", "9"], "--steps is 9: too few"),
        (["--agent", "ppo", "--out", "no/such/a.csv"], "no/such/a.csv: No such file"),
        (["--agent", "ppo", "--out", "."], ".: Is a directory"),
        pytest.param(["--agent", "ppo", "--env", "Blackjack-v1"], "Tuple", marks=needs_sb3),
    ],
)
def test_bad_input(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    peer = [] if {"--env", "--peer"} & set(words) else ["--peer", "plain"]
    assert main([*peer, *words]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1
    assert "round" not in out
