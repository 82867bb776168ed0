"""Presets: read from TOML on top of the agent's own defaults, and checked."""

import tomllib
from dataclasses import dataclass, field

import pytest

from agents.agent import AgentConfig
from agents.core.network import NetworkConfig
from agents.runner.presets import FOLDER, merged, preset_for
from agents.runner.registry import AGENTS
from tests.runner.fakes import Tiny


@dataclass(frozen=True)
class Config(AgentConfig):
    clip: float | None = 0.2
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig((8, 8, 8)))


class Preset(Tiny):
    name = "preset"
    Config = Config


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / "preset.toml").write_text(text)
        return tmp_path

    return write


def test_a_preset_changes_only_what_it_names(write):
    folder = write("""
        ["CartPole-v1"]
        steps = 5_000
        agent.clip = 1
        agent.network.activation = "relu"
        [Other-v0]
        num_envs = 3
    """)
    preset = preset_for(Preset, "CartPole-v1", folder)
    assert preset is not None
    assert preset.steps == 5000
    assert preset.num_envs is None
    # the agent's own default network, not the one of NetworkConfig
    assert preset.agent == Config(clip=1.0, network=NetworkConfig((8, 8, 8), "relu"))
    assert isinstance(preset.agent.clip, float)
    other = preset_for(Preset, "Other-v0", folder)
    assert other is not None
    assert (other.num_envs, other.agent) == (3, Config())


def test_an_environment_or_agent_without_a_preset_has_none(write, tmp_path):
    assert preset_for(Preset, "Other-v0", write("[A]\nsteps = 1")) is None
    assert preset_for(Preset, "CartPole-v1", tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[A]\nagent.clipp = 1",
            r"preset\.toml, A: Config has no field 'clipp': did you mean",
        ),
        ("[A]\nagent.optim.lrr = 1", r"no field 'optim\.lrr'"),
        ("[A]\nstep = 3", "no field 'step', did you mean steps"),
        ("[A]\nagent.optim.lr = -1", "optim.lr is -1"),
        ('[A]\nagent.gamma = "x"', "gamma is 'x': expected float"),
        ("[A", "not TOML"),
    ],
)
def test_a_bad_preset_says_where_and_what(write, text, message):
    with pytest.raises(ValueError, match=message):
        preset_for(Preset, "A", write(text))


def test_merged_leaves_its_arguments_alone():
    base, over = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "e": {"f": 6}}
    assert merged(base, over) == {"a": {"b": 5, "c": 2}, "d": 3, "e": {"f": 6}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_of_ours_can_be_used(path):
    for env in tomllib.loads(path.read_text()):
        preset = preset_for(AGENTS[path.stem], env)
        assert preset is not None
        assert isinstance(preset.agent, AGENTS[path.stem].Config)
