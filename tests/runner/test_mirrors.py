"""The logs in other tools, by their own libraries and without a network."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import envs
from agents.runner.mirrors import Trackio, Wandb, scalars, together
from agents.runner.recorder import Recorder
from agents.runner.train import train
from tests.runner.fakes import Tiny, rows


def test_numbers_are_named_by_table_learner_and_layer():
    row = {"step": 5, "update": 1, "learner": "ppo", "layer": "head", "grad_norm": 2.0}
    row |= {"cosine": math.nan, "nonfinite": ""}
    assert dict(scalars("gradients", row)) == {"gradients/ppo/head/grad_norm": 2.0}
    assert dict(scalars("episodes", {"step": 5, "return": 3, "seconds": 1.0})) == {
        "episodes/return": 3.0
    }


def test_all_mirrors_are_shown_each_row():
    seen: list[str] = []
    mirror = together([lambda t, row: seen.append("a"), lambda t, row: seen.append("b")])
    assert mirror is not None
    mirror("episodes", {})
    assert seen == ["a", "b"]
    assert together([]) is None


def column(file: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(file)]


def trained(folder, mirror):
    tasks = envs.make("CartPole-v1", num_envs=4)
    agent = Tiny(tasks.observation_space, tasks.action_space, seed=0)
    train(agent, tasks, 640, [mirror, Recorder(folder, log_every=4, mirror=mirror.show)])


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of wandb's file: LevelDB's log format, blocks of 32 KiB after a header."""
    data, whole = path.read_bytes(), b""
    at = 7
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2 as proto

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "tiny-0"
    folder.mkdir()
    trained(folder, Wandb(folder, "chainrule", {"agent": "tiny"}))
    wandb.teardown()  # its service writes the file to its end
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    logged: dict[str, list[float]] = {}
    for data in wandb_records(file):
        record = proto.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            logged.setdefault(name, []).append(json.loads(item.value_json))
    assert logged["episodes/return"] == column(folder / "episodes.csv", "return")
    assert logged["updates/tiny/loss"] == column(folder / "updates.csv", "loss")


def test_trackio_keeps_a_run_on_the_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    folder = tmp_path / "tiny-0"
    mirror = Trackio(folder, "chainrule", {"agent": "tiny"})
    trained(folder, mirror)
    logs = SQLiteStorage.get_logs("chainrule", mirror.id)
    for name, table, key in (
        ("episodes/return", "episodes", "return"),
        ("updates/tiny/loss", "updates", "loss"),
    ):
        assert [row[name] for row in logs if name in row] == column(folder / f"{table}.csv", key)
    assert capsys.readouterr().out == ""  # where a script's result stands


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_run_is_the_same_when_it_is_resumed_and_no_other_in_its_folder(tmp_path, kind):
    pytest.importorskip(kind)
    cls: Any = {"wandb": Wandb, "trackio": Trackio}[kind]
    first, other, resumed = (cls(tmp_path / "tiny-0", "chainrule", {}) for _ in range(3))
    resumed.load_state_dict(first.state_dict())
    assert resumed.id == first.id != other.id
    assert first.id.startswith("tiny-0-")
