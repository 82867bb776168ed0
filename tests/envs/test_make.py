"""`envs.make` finds the fastest form, keeps a seed, and says what is wrong with its arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TransformReward
from gymnasium.wrappers.vector import TransformReward as VectorReward

import envs
from envs.vector import VectorEnv


def inner(tasks: VectorEnv) -> Any:
    """What is stepped underneath: Gymnasium's vector environment, None for a loop."""
    return getattr(tasks._envs, "env", None)


def test_the_native_form_is_used_from_where_it_is_faster() -> None:
    few, many = (envs.make("CartPole-v1", num_envs=envs.NATIVE_FROM - k) for k in (1, 0))
    assert inner(few) is None
    assert isinstance(inner(many), CartPoleVectorEnv)
    assert (few.num_envs, many.num_envs) == (envs.NATIVE_FROM - 1, envs.NATIVE_FROM)
    assert few.observation_space == many.observation_space
    assert few.action_space == many.action_space
    # Neither a task without such a form nor one that is to be made differently has it.
    assert inner(envs.make("FrozenLake-v1", num_envs=8)) is None
    assert inner(envs.make("CartPole-v1", num_envs=8, sutton_barto_reward=True)) is None


@pytest.mark.parametrize("backend", ["loop", "vector"])
def test_the_environments_know_their_id(backend: envs.Backend) -> None:
    for id in ("CartPole-v1", "envs:CartPole-v1"):
        assert envs.make(id, 2, backend=backend).id == id
    assert VectorEnv(gymnasium.make("CartPole-v1")).id == "CartPole-v1"
    assert VectorEnv(gymnasium.make_vec("CartPole-v1", 2)).id == "CartPole-v1"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {}),
        ({"desc": ["SG", "FH"]}, {"desc": ["SG", "FH"]}),
        ({"is_slippery": False, "render_mode": "ansi"}, {"is_slippery": False}),
        ({"desc": np.array([[b"S", b"G"], [b"F", b"H"]])}, None),
    ],
)
def test_the_environments_know_their_options(options: Any, kept: Any) -> None:
    assert envs.make("FrozenLake-v1", 2, **options).options == kept


def cartpole(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", **options)


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (lambda: cartpole(), {}),
        (lambda: cartpole(render_mode="rgb_array"), {}),
        (lambda: gymnasium.make("chainrule/PositionOnlyCartPole-v0"), {}),  # wrapped by its spec
        (lambda: gymnasium.make_vec("CartPole-v1", 2), {}),
        (lambda: gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync"), {}),
        (lambda: cartpole(sutton_barto_reward=True), None),
        (lambda: cartpole(max_episode_steps=30), None),
        (lambda: cartpole().unwrapped, None),  # without its time limit
        (lambda: TransformReward(cartpole(), float), None),
        (lambda: [cartpole(), cartpole(max_episode_steps=30)], None),
        (lambda: [cartpole(), gymnasium.make("CartPole-v0")], None),
        (lambda: gymnasium.make_vec("CartPole-v1", 2, sutton_barto_reward=True), None),
        (lambda: VectorReward(gymnasium.make_vec("CartPole-v1", 2), np.sign), None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date:DeprecationWarning")
def test_what_make_would_not_make_again_is_known(made: Any, options: Any) -> None:
    assert VectorEnv(made()).options == options


def test_the_native_form_gives_what_the_single_environment_would() -> None:
    single: Any = gymnasium.make("CartPole-v1").unwrapped
    single.reset(seed=0)
    rng = np.random.default_rng(0)
    lengths, done = np.zeros(8, int), np.zeros(8, bool)
    with envs.make("CartPole-v1", num_envs=8, seed=3) as tasks:
        tasks.reset()
        for _ in range(150):
            transition, obs = tasks.step(rng.integers(2, size=8))
            assert (transition.valid == ~done).all()
            for i in transition.valid.nonzero()[0]:
                single.state, single.steps_beyond_terminated = tuple(transition.obs[i]), None
                successor, reward, terminated, _, _ = single.step(int(transition.action[i]))
                np.testing.assert_allclose(transition.next_obs[i], successor, atol=1e-5)
                assert (transition.reward[i], transition.terminated[i]) == (reward, terminated)
            lengths += transition.valid
            done = transition.done
            assert [e.length for e in tasks.episodes] == lengths[done].tolist()
            assert [e.return_ for e in tasks.episodes] == lengths[done].tolist()
            lengths[done] = 0
            assert (np.abs(obs[~transition.valid]) <= 0.05).all()  # where CartPole begins


@pytest.mark.parametrize("num_envs", [2, 8])
def test_the_seed_is_used_by_the_first_reset_that_is_given_none(num_envs: int) -> None:
    def first(seed: int | None, *resets: int | None) -> list[Any]:
        with envs.make("CartPole-v1", num_envs, seed) as tasks:
            return [tasks.reset(*([] if r is None else [r])).tolist() for r in resets]

    seeded = first(5, None, None)
    assert seeded == first(None, 5, None) == first(5, None, None)
    assert seeded[0] != seeded[1]
    assert first(5, 6, None) == [first(None, 6)[0], seeded[0]]
    assert first(None, None) != first(None, None)


def test_options_reach_the_environment() -> None:
    with envs.make("FrozenLake-v1", num_envs=2, is_slippery=False, map_name="8x8") as tasks:
        assert tasks.observation_space == gymnasium.spaces.Discrete(64)
        tasks.reset(0)
        transition, _ = tasks.step(np.array([2, 1]))  # right and down, without slipping
        assert transition.next_obs.tolist() == [1, 8]


@pytest.mark.parametrize(
    ("id", "options", "said"),
    [
        ("CartPol-v1", {}, r"no environment 'CartPol-v1': did you mean [^?]*CartPole-v1[^?]*\?$"),
        ("CartPole-v7", {}, r"no environment 'CartPole-v7'"),
        ("DelayedReward-v0", {}, r"did you mean chainrule/DelayedReward-v0"),
        ("DeepSea", {}, r"no environment 'DeepSea': did you mean chainrule/DeepSea-v0\?$"),
        ("bitflip", {}, r"no environment 'bitflip': did you mean chainrule/BitFlip-v0\?$"),
        ("Absent/Task-v0", {}, r"no environment 'Absent/Task-v0': Namespace Absent not found"),
        ("no_such_module:Task-v0", {}, r"no_such_module:Task-v0 needs a package.*no_such_module"),
        ("gymnasium:CartPol-v1", {}, r"no environment 'gymnasium:CartPol-v1': did you mean"),
        ("CartPole-v1", {"gravity": 3}, r"CartPole-v1 cannot be made with \{'gravity': 3\}"),
        ("CartPole-v1", {"num_envs": 0}, "num_envs is 0: use 1 or more"),
    ],
)
def test_what_cannot_be_made_is_one_clear_line(id: str, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        envs.make(id, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_envs", ["4", 2.0, None])
def test_what_is_no_whole_number_of_environments_is_refused(num_envs: Any) -> None:
    with pytest.raises(TypeError, match=rf"^num_envs is {num_envs!r}: use a whole number$"):
        envs.make("CartPole-v1", num_envs)


@pytest.mark.parametrize("error", [ValueError("in it"), FileNotFoundError("in it")])
def test_an_error_that_would_be_taken_for_bad_input_says_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(**options: Any) -> Any:
        raise error

    spec = EnvSpec("Broken-v0", entry_point=broken)
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    with pytest.raises(ValueError, match=f"^Broken-v0 cannot be made: {type(error).__name__}: in"):
        envs.make("Broken-v0")


def test_an_error_of_the_environments_own_is_that_of_its_options_only_where_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(**options: Any) -> Any:
        raise ZeroDivisionError("in it")

    spec = EnvSpec("Broken-v0", entry_point=broken)
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    with pytest.raises(ZeroDivisionError):
        envs.make("Broken-v0")
    said = r"^Broken-v0 cannot be made with \{'size': 3\}: ZeroDivisionError: in it"
    with pytest.raises(ValueError, match=said):
        envs.make("Broken-v0", size=3)


@pytest.mark.parametrize(
    ("package", "id", "said"),
    [
        ("jax", "phys2d/CartPole-v1", r"^phys2d/CartPole-v1 needs a package .* jax"),
        (
            "Box2D",
            "LunarLander-v3",
            r"^LunarLander-v3 needs Box2D: pip install 'chainrule\[envs\]'$",
        ),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, package: str, id: str, said: str
) -> None:
    for name in [*sys.modules]:
        if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.phys2d")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=said):
        envs.make(id)


def test_a_module_registers_what_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {**gymnasium.registry})
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    (tmp_path / "my_tasks.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine/Pole-v0', CartPoleEnv, max_episode_steps=7)\n"
    )
    with envs.make("my_tasks:Mine/Pole-v0", num_envs=2) as tasks:
        assert tasks.observation_space.shape == (4,)
    assert envs.spec("my_tasks:Mine/Pole-v0").max_episode_steps == 7
    assert envs.spec("gymnasium.envs.classic_control:CartPole-v1").id == "CartPole-v1"


def test_mujoco_tells_what_concerns_the_user_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)  # where MuJoCo would leave a file of its warnings
    mujoco.set_mju_user_warning(None)
    envs.make("HalfCheetah-v5", num_envs=2).close()
    assert capfd.readouterr().err == ""
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    data.qpos[0] = np.nan
    mujoco.mj_step(model, data)
    assert "MuJoCo: Nan, Inf or huge value in QPOS" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
