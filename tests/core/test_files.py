"""Files come back as they were written, whole, or are refused with one line."""

import json
import os
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from agents.core import files
from agents.core.files import CheckpointError

ARRAYS: dict[str, Any] = {
    "weights": torch.arange(12.0).reshape(3, 4).T,
    "scalar": np.float32(2.5).reshape(()),
    "flags": np.array([True, False]),
    "pixels": np.arange(10, dtype=np.uint8)[::2],
    "counts": np.array([[2**60]], np.int64),
    "empty": np.zeros((3, 0)),
}


def same(a, b) -> bool:
    """Equality of states, to the bit and the type; nan equals nan, a tuple a list."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and (a == b or (a != a and b != b))


ARRAY = hnp.arrays(
    st.sampled_from([np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
VALUE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREE = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        VALUE | ARRAY,
        lambda below: (
            st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below, max_size=3)
        ),
        max_leaves=10,
    ),
    max_size=4,
)


@given(tree=TREE)
@settings(max_examples=50)
def test_any_state_comes_back_bit_for_bit(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    arrays, rest = files.split_state(tree)
    files.write_arrays(path, arrays, {"state": rest})
    arrays, header = files.read_arrays(path)
    assert same(tree, files.join_state(arrays, header["state"]))


def test_where_no_file_can_be_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, said in (
        (tmp_path / "folder", "folder is a folder: give the name of a file"),
        (tmp_path / "no" / "x", f"x cannot be written: there is no folder {tmp_path / 'no'}"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            files.write_bytes(path, b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def full(number):
        raise OSError("no space left")

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        files.write_bytes(tmp_path / "x", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_arrays_and_tensors_of_any_layout_come_back(tmp_path):
    files.write_arrays(tmp_path / "a", ARRAYS, {"step": 3})
    arrays, header = files.read_arrays(tmp_path / "a")
    assert header == {"step": 3}
    for name, array in ARRAYS.items():
        assert same(np.ascontiguousarray(array).reshape(array.shape), arrays[name])


def test_a_random_generator_goes_on_where_it_was(tmp_path):
    rng = np.random.default_rng(3)
    rng.random(5)
    arrays, rest = files.split_state({"rng": rng.bit_generator.state})
    files.write_arrays(tmp_path / "a", arrays, {"state": rest})
    arrays, header = files.read_arrays(tmp_path / "a")
    other = np.random.default_rng()
    other.bit_generator.state = files.join_state(arrays, header["state"])["rng"]
    assert other.random() == rng.random()


@pytest.mark.parametrize(
    "tree", [{"a": object()}, {1: 2}, {"a": {"$array": 1}}, {"a": np.array(["text"])}]
)
def test_what_cannot_be_saved_is_an_error(tree):
    with pytest.raises(ValueError, match=r"state|cannot be saved"):
        files.split_state(tree)


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def crash(*arguments):
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as m:
            m.setattr(os, name, crash)
            with pytest.raises(KeyboardInterrupt):
                files.write_bytes(path, b"new")
        assert path.read_bytes() == b"old"
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# What is refused --------------------------------------------------------------------------------


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_refused_and_runs_no_code(tmp_path, protocol):
    path = tmp_path / "agent.safetensors"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol))
    with pytest.raises(CheckpointError, match=r"pickle|not a file|truncated"):
        files.read_arrays(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_torch_save_file_is_refused_and_runs_no_code(tmp_path, as_zip):
    path = tmp_path / "agent.pt"
    torch.save({"a": Bomb(tmp_path / "ran")}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        files.read_arrays(path)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        files.read_arrays(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        files.read_arrays(tmp_path)


def test_every_truncation_is_refused(tmp_path):
    files.write_arrays(tmp_path / "a", ARRAYS, {"step": 3})
    data = (tmp_path / "a").read_bytes()
    for length in range(len(data)):
        (tmp_path / "b").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"truncated|not a file"):
            files.read_arrays(tmp_path / "b")


def test_every_changed_byte_is_noticed(tmp_path):
    files.write_arrays(tmp_path / "a", ARRAYS, {"step": 3, "text": "abc"})
    data = (tmp_path / "a").read_bytes()
    arrays, header = files.read_arrays(tmp_path / "a")
    refused = 0
    for place in range(len(data)):
        for flip in (1, 0x20):
            changed = bytearray(data)
            changed[place] ^= flip
            (tmp_path / "b").write_bytes(changed)
            try:
                read = files.read_arrays(tmp_path / "b")
            except CheckpointError:
                refused += 1
            else:  # a space that says nothing
                assert same(arrays, read[0])
                assert same(header, read[1])
    assert refused > 1.9 * len(data)


def test_anothers_safetensors_file_is_refused(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "plain")
    save_file({"a": np.zeros(3)}, tmp_path / "other", metadata={"chainrule": "{}"})
    for name in ("plain", "other"):
        with pytest.raises(CheckpointError, match="not a file that chainrule wrote"):
            files.read_arrays(tmp_path / name)


@pytest.mark.parametrize(("by", "message"), [(1, "upgrade"), (-1, "the chainrule that wrote it")])
def test_another_format_is_refused(tmp_path, monkeypatch, by, message):
    with monkeypatch.context() as m:
        m.setattr(files, "FORMAT", files.FORMAT + by)
        files.write_arrays(tmp_path / "a", ARRAYS, {})
    with pytest.raises(CheckpointError, match=message):
        files.read_arrays(tmp_path / "a")


# Spaces and configurations ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (3,)),
        spaces.Box(np.array([-1, -2.1], np.float32), np.array([1, np.inf], np.float32)),
        spaces.Box(0, 255, (4, 5, 3), np.uint8),
        spaces.Box(-1.0, 1.0, (), np.float64),
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([3, 4], start=[1, 0]),
        spaces.MultiDiscrete(np.array([[3, 4], [2, 2]])),
        spaces.MultiBinary(4),
        spaces.MultiBinary((2, 3)),
        spaces.Dict(
            z=spaces.Discrete(2), a=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)])
        ),
    ],
    ids=str,
)
def test_a_space_comes_back(space):
    again = files.space_from_json(json.loads(json.dumps(files.space_to_json(space))))
    assert again == space
    if isinstance(space, spaces.Dict) and isinstance(again, spaces.Dict):
        assert list(again.spaces) == list(space.spaces)


def test_an_unsupported_space_is_an_error():
    with pytest.raises(ValueError, match="Text"):
        files.space_to_json(spaces.Text(5))


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...] = (64, 64)
    betas: tuple[float, float] = (0.9, 0.99)
    limit: float | None = None
    on: bool = False
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if not self.sizes:
            raise ValueError("sizes is empty: give one or more")


@pytest.mark.parametrize(
    "config",
    [Outer(), Outer((3,), (0.0, 0.5), 1e-300, True, Inner(float("inf"), "b")), Outer(limit=1.0)],
)
def test_a_config_comes_back(config):
    data = json.loads(json.dumps(files.config_to_json(config)))
    assert files.config_from_json(Outer, data) == config


def test_a_config_takes_defaults_and_whole_numbers():
    config = files.config_from_json(Outer, {"limit": 1, "inner": {"rate": 2}})
    assert config == Outer(limit=1.0, inner=Inner(2.0))
    assert isinstance(config.inner.rate, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"size": [3]}, "no field 'size': did you mean sizes"),
        ({"inner": {"rat": 3}}, r"no field 'inner\.rat': did you mean rate"),
        ({"sizes": 3}, "sizes is 3: expected tuple"),
        ({"sizes": [1.5]}, r"sizes is 1\.5: expected int"),
        ({"betas": [0.1]}, "betas is"),
        ({"on": 1}, "on is 1: expected bool"),
        ({"limit": "x"}, "limit is 'x': expected float"),
        ({"inner": {"kind": "c"}}, r"inner\.kind is 'c': use a, b"),
        ({"inner": 3}, "inner is 3: give fields of Inner"),
        ({"sizes": []}, "sizes is empty"),
    ],
)
def test_a_bad_config_says_what_is_wrong(data, message):
    with pytest.raises(ValueError, match=message):
        files.config_from_json(Outer, data)


@dataclass(frozen=True)
class Checked(Outer):
    def __post_init__(self):
        files.check_types(self, "agent.")


def test_the_types_of_a_config_are_those_of_its_annotations():
    config = Checked([np.int64(3)], limit=2)  # type: ignore[arg-type]
    assert config == Checked((3,), limit=2.0)
    assert [type(value) for value in (config.sizes[0], config.limit)] == [int, float]
    assert json.loads(json.dumps(files.config_to_json(config)))["sizes"] == [3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (1.5,)}, r"^agent\.sizes is 1\.5: expected int$"),
        ({"sizes": (True,)}, r"agent\.sizes is True: expected int"),
        ({"betas": 0.9}, r"agent\.betas is 0\.9: expected tuple\[float, float\]"),
        ({"limit": "ten"}, r"agent\.limit is 'ten': expected float"),
        ({"on": 1}, r"agent\.on is 1: expected bool"),
        ({"inner": {"rate": 0.5}}, r"agent\.inner is \{'rate': 0\.5\}: expected Inner"),
    ],
)
def test_a_value_of_another_type_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Checked(**settings)
