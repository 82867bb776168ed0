"""What is saved acts as it did; what is damaged, foreign or dangerous is refused in one line."""

import json
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import agents
import envs
from agents import AGENTS, CheckpointError, train
from agents.core.files import read_arrays, write_arrays
from agents.runner.checkpoint import Checkpoint
from tests.contract.support import batches, small, task, weights

OBSERVATIONS = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)


@pytest.fixture
def agent(cls):
    """An agent that has learned a little, normalisers included."""
    tasks = envs.make(task(cls), num_envs=4)
    dense = {"hidden_sizes": (16, 16), "init": "orthogonal"}  # tells observations apart at once
    settings = {"normalize_obs": True, "normalize_reward": True, "network": dense}
    agent = small(cls, tasks, seed=3, optim={"lr": 1e-5}, **settings)  # and goes on doing so
    for batch in islice(batches(agent, tasks), 5):
        agent.update(batch)
    return agent


def test_a_saved_agent_acts_the_same(agent, tmp_path):
    agent.save(tmp_path / "agent.safetensors")
    loaded = agents.load(tmp_path / "agent.safetensors")
    assert type(loaded) is type(agent)
    assert loaded.config == agent.config
    assert (loaded.seed, loaded.steps) == (3, agent.steps)
    assert weights(loaded).equal(weights(agent))
    actions = agent.act(OBSERVATIONS)
    assert len(np.unique(actions)) > 1  # else the comparison would say nothing
    assert np.array_equal(loaded.act(OBSERVATIONS), actions)
    explored = agent.actor(200, seed=1).act(OBSERVATIONS)[0]
    assert np.array_equal(loaded.actor(200, seed=1).act(OBSERVATIONS)[0], explored)
    for part in ("obs_normalizer", "reward_scaler"):
        ours, theirs = getattr(agent, part), getattr(loaded, part)
        assert ours.count == theirs.count > 1
        assert np.array_equal(ours.mean, theirs.mean)
        assert np.array_equal(ours.variance, theirs.variance)
    for name, target in loaded.targets.items():
        assert target.vector.equal(loaded.learners[name].flat.vector)


def test_a_loaded_agent_goes_on_learning(cls, agent, tmp_path):
    agent.save(tmp_path / "agent.safetensors")
    loaded = agents.load(tmp_path / "agent.safetensors")
    train(loaded, envs.make(task(cls), num_envs=4), loaded.steps + 400)
    assert weights(loaded).isfinite().all()
    assert not weights(loaded).equal(weights(agent))


def test_the_folder_of_a_run_is_loaded_as_the_agent_it_ended_with(cls, tmp_path):
    tasks = envs.make(task(cls), num_envs=4)
    agent = small(cls, tasks)
    train(agent, tasks, 240, [Checkpoint(tmp_path, every=80)])
    loaded = agents.load(tmp_path)
    assert weights(loaded).equal(weights(agent))
    assert np.array_equal(loaded.act(OBSERVATIONS), agent.act(OBSERVATIONS))


class Trap:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path):
    with pytest.raises(CheckpointError) as error:
        agents.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dump", ["pickle", "old pickle", "torch.save", "old torch.save", "npz"])
def test_a_file_that_could_run_code_is_refused_and_does_not(dump, tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "agent.safetensors"
    trap = {"weights": Trap(sprung)}
    if dump.endswith("pickle"):
        path.write_bytes(pickle.dumps(trap, protocol=0 if dump.startswith("old") else None))
    elif dump.endswith("torch.save"):
        torch.save(trap, path, _use_new_zipfile_serialization=not dump.startswith("old"))
    else:
        with open(path, "wb") as file:
            np.savez(file, weights=np.array(trap, object))
    refused(path)
    assert not sprung.exists()
    with open(path, "rb") as file:  # the trap is a real one
        loaded = np.load(file, allow_pickle=True) if dump == "npz" else None
        if dump.endswith("pickle"):
            pickle.load(file)
        elif dump.endswith("torch.save"):
            torch.load(file, weights_only=False)
        elif loaded is not None:
            loaded["weights"]
    assert sprung.exists()


def test_a_file_with_any_byte_changed_or_missing_is_refused(agent, tmp_path):
    path = tmp_path / "agent.safetensors"
    agent.save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(data), size=60):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.integers(7)
        path.write_bytes(changed)
        refused(path)
        path.write_bytes(data[:place])
        refused(path)
    path.write_bytes(data)
    agents.load(path)


def test_another_agents_file_is_refused_by_name(agent, tmp_path):
    path = tmp_path / "agent.safetensors"
    agent.save(path)
    for name, other in AGENTS.items():
        if name != agent.name:
            with pytest.raises(CheckpointError, match=f"holds a {agent.name} agent, not {name}"):
                other.from_file(path)


def test_a_file_made_by_other_hands_is_refused(agent, tmp_path):
    """Whole files with a right checksum that do not hold a whole agent all the same."""
    path = tmp_path / "agent.safetensors"
    agent.save(path)
    arrays, header = read_arrays(path)
    weight = next(name for name in arrays if name.endswith(".weight"))
    wrong = np.zeros((7, 7))

    def without(tree, name):
        return {key: value for key, value in tree.items() if key != name}

    config = header["config"]
    for other, said in (
        ((without(arrays, weight), header), weight.split(".")[-2]),
        ((arrays | {weight: wrong.astype(np.float32)}, header), weight.split(".")[-2]),
        ((without(arrays, "obs_normalizer.mean"), header), "obs_normalizer.mean"),
        ((arrays | {"obs_normalizer.mean": wrong}, header), "obs_normalizer"),
        ((arrays, header | {"agent": "alphago"}), "alphago"),
        ((arrays, {}), "None"),
        ((arrays, header | {"config": config | {"gammma": 1}}), "gamma"),
        ((arrays, header | {"config": config | {"gamma": 2.0}}), "gamma"),
        ((arrays, header | {"observation_space": {"type": "Text"}}), "Text"),
        ((arrays, without(header, "seed")), "seed"),
    ):
        write_arrays(path, *other)
        assert said in refused(path)


def test_foreign_safetensors_missing_files_and_empty_folders_are_refused(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": np.zeros(3)}, foreign, {"format": "pt"})
    refused(foreign)
    (tmp_path / "text.safetensors").write_text(json.dumps({"weights": [1, 2]}))
    refused(tmp_path / "text.safetensors")
    refused(tmp_path / "nothing.safetensors")
    refused(tmp_path)
