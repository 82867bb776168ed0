"""The replay benchmark times what it says, and says what is wrong with its input."""

import importlib.util
import re
import sys

import numpy as np
import pytest
import torch

from scripts import benchmark_replay
from scripts.benchmark_replay import Options, main, ours, plain, sb3

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("stable_baselines3") is None, reason="Stable-Baselines3 is an extra"
)
SMALL = ["--entries", "400", "--num-envs", "4", "--batch-size", "8"]


def test_the_last_line_is_the_ratio_of_the_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With sides that take 1, 2, … times as long it finds just that."""
    factor = iter([1.0, 3.0, 2.0, 8.0] * 3)
    sides: dict[int, float] = {}

    def timed(side: benchmark_replay.Side, turns: int) -> dict[str, float]:
        side.add()
        side.sample()
        took = sides.setdefault(id(side), next(factor))
        tell = 0.0 if side.tell is None else took
        return {"add": took, "sample": took, "tell": tell}

    monkeypatch.setattr(benchmark_replay, "timed", timed)
    assert main([*SMALL, "--rounds", "2"]) == 0
    *_, prioritised, peer, _, last = capsys.readouterr().out.splitlines()
    assert last == (
        "ratio=1.500 min=1.500 max=1.500 with_priorities=2.250 uniform=0.500 plain=4.000"
    )
    assert re.split(r"\s{2,}", prioritised) == [
        "chainrule prioritised", "0", "0", "6000000.0", "3000000.0",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", peer) == ["sb3 uniform", "0", "0", "4000000.0", "-"]


def test_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--turns", "3", "--rounds", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"ratio=\S+ min=\S+ max=\S+ with_priorities=\S+ uniform=\S+ plain=\S+", last
    )


def test_every_side_draws_a_whole_batch_from_a_full_memory() -> None:
    options, rng = Options(entries=400, num_envs=4, batch_size=8), np.random.default_rng(0)
    peer, tree = sb3(options, rng), plain(options, rng)
    for side in (peer, tree):
        side.add()
    assert peer.sample().observations.shape == (8, 4)  # type: ignore[attr-defined]
    columns = tree.sample()
    assert isinstance(columns, list)
    assert all(isinstance(c, torch.Tensor) and len(c) == 8 for c in columns)
    assert tree.tell is not None
    tree.tell()
    for alpha in (0.0, 0.6):
        side = ours(options, rng, alpha)
        for _ in range(3):  # one batch is due after each step, or this raises StopIteration
            side.add()
            side.sample()
        assert (side.tell is None) == (alpha == 0.0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--turns", "0"], "--turns is 0"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--entries", "4"], "--entries 4: use at least --num-envs 8"),
        (["--entries", "1000000000000000"], "buffer_size is 1000000000000000"),
    ],
)
def test_bad_input(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(words))  # as the script ends
    assert stop.value.code == 2
    assert says in capsys.readouterr().err
