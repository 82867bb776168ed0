"""Whatever steps the environments, the experience is that of a plain loop over single ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space, iterate
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import envs
from agents.core.files import join_state, split_state
from envs import tape
from envs.classic import CartPole, Pendulum
from envs.vector import Episode, RestoreWarning, VectorEnv

PLACE, DIGIT = spaces.Box(-100, 100, (2,)), spaces.Discrete(50)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": PLACE,
    "discrete": DIGIT,
    "dict": spaces.Dict({"place": PLACE, "digit": DIGIT}),
    "tuple": spaces.Tuple([DIGIT, PLACE]),
}
ACTIONS = spaces.Discrete(3)


class Lottery(gymnasium.Env[Any, Any]):
    """Episodes of 1 to 4 steps; chance decides how long, and if they terminate or are truncated."""

    def __init__(self, kind: str = "box", actions: spaces.Space[Any] = ACTIONS) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[kind], actions
        self.kind = kind
        self.seen: list[Any] = []

    def observe(self) -> Any:
        place = np.array([self.at, self.ticket], np.float32)
        digit = np.int64(10 * self.at + self.ticket)
        return {
            "box": place,
            "discrete": digit,
            "dict": {"place": place, "digit": digit},
            "tuple": (digit, place),
        }[self.kind]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        self.length, self.ticket = self.np_random.integers(1, 5), self.np_random.integers(9)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.seen.append(action)
        self.at += 1
        reward = 0.1 * self.ticket + amount(action) + self.np_random.normal()
        over = self.at == self.length
        ends = bool(over and self.ticket % 2)
        return self.observe(), reward, ends, bool(over and not ends), {}


def amount(action: Any) -> float:
    """The sum of all numbers in an action."""
    parts = action.values() if isinstance(action, dict) else action
    return float(sum(map(np.sum, parts)) if isinstance(action, dict | tuple) else np.sum(action))


def policy(obs: Any) -> int:
    """An action that depends on nothing but the observation, of whatever kind."""
    if isinstance(obs, dict):
        obs = obs["place"]
    return int(np.sum(obs[1] if isinstance(obs, tuple) else obs)) % 3


def plain(env: gymnasium.Env[Any, Any], seed: int) -> Iterator[tuple[Any, ...]]:
    """(obs, action, reward, next_obs, terminated, truncated) of a single environment, for ever."""
    obs, _ = env.reset(seed=seed)
    while True:
        action = policy(obs)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        yield obs, action, reward, next_obs, terminated, truncated
        obs = env.reset()[0] if terminated or truncated else next_obs


def vectorized(mode: AutoresetMode, **options: Any) -> Callable[..., VectorEnv]:
    def make(kind: str = "box", copies: int = 3) -> VectorEnv:
        return VectorEnv(
            SyncVectorEnv([lambda: Lottery(kind)] * copies, autoreset_mode=mode, **options)
        )

    return make


FORMS: dict[str, Callable[..., VectorEnv]] = {
    "loop": lambda kind="box": VectorEnv([Lottery(kind) for _ in range(3)]),
    "single": lambda kind="box": VectorEnv(Lottery(kind)),
    "shared arrays": vectorized(AutoresetMode.NEXT_STEP, copy=False),
    **{mode.name: vectorized(mode) for mode in AutoresetMode},
}


def rows(tasks: VectorEnv, obs: Any) -> list[Any]:
    """The observations of a batch one by one."""
    return list(iterate(batch_space(tasks.observation_space, tasks.num_envs), obs))


def act(tasks: VectorEnv) -> np.ndarray:
    return np.array([policy(obs) for obs in rows(tasks, tasks.obs)])


def equal(one: Any, other: Any) -> bool:
    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return True


RESETS_COST_A_STEP = ("NEXT_STEP", "shared arrays")


def check_against_plain_loops(tasks: VectorEnv, kind: str, form: str, steps: int = 60) -> None:
    tasks.reset(5)
    loops = [plain(Lottery(kind), 5 + i) for i in range(tasks.num_envs)]
    kept, returns, lengths = [], np.zeros(tasks.num_envs), np.zeros(tasks.num_envs, int)
    done = np.zeros(tasks.num_envs, bool)
    ended = truncations = 0
    for _ in range(steps):
        transition, obs = tasks.step(act(tasks), {"tag": done})
        assert obs is tasks.obs
        assert transition.extras["tag"] is done
        kept.append((transition, deepcopy(transition), obs, deepcopy(obs)))
        assert (transition.valid == ~(done & (form in RESETS_COST_A_STEP))).all()
        assert transition.reward.dtype == np.float32
        assert transition.obs is (kept[-2][2] if len(kept) > 1 else transition.obs)
        expected_episodes = []
        for i in transition.valid.nonzero()[0]:
            seen, action, reward, next_seen, terminated, truncated = next(loops[i])
            assert equal(rows(tasks, transition.obs)[i], seen)
            assert transition.action[i] == action
            assert transition.reward[i] == np.float32(reward)
            assert equal(rows(tasks, transition.next_obs)[i], next_seen)
            assert (transition.terminated[i], transition.truncated[i]) == (terminated, truncated)
            returns[i] += reward
            lengths[i] += 1
            if terminated or truncated:
                expected_episodes.append(Episode(int(i), returns[i], lengths[i]))
                returns[i], lengths[i] = 0.0, 0
                truncations += truncated
        assert not transition.done[~transition.valid].any()
        assert tasks.episodes == expected_episodes
        done = transition.done
        ended += len(expected_episodes)
    assert ended > truncations > 2
    # A memory may keep what was given out: nothing writes to it again.
    for transition, copy, obs, copied in kept:
        assert equal(obs, copied)
        for field in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "valid"):
            assert equal(getattr(transition, field), getattr(copy, field))


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_the_experience_is_that_of_plain_loops(form: str, kind: str) -> None:
    with FORMS[form](kind) as tasks:
        assert tasks.observation_space == OBSERVATIONS[kind]
        assert tasks.action_space == ACTIONS
        check_against_plain_loops(tasks, kind, form)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_experience_of_other_processes_is_that_of_plain_loops(mode: AutoresetMode) -> None:
    makers = [lambda: Lottery("dict")] * 2
    with VectorEnv(AsyncVectorEnv(makers, autoreset_mode=mode, context="spawn")) as tasks:
        check_against_plain_loops(tasks, "dict", mode.name, 30)


# Actions ----------------------------------------------------------------------------------------


def in_sync(played: list[gymnasium.Env[Any, Any]]) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: played[0], lambda: played[1]])


@pytest.mark.parametrize("wrap", [list, in_sync])
def test_box_actions_are_clipped_for_the_environment_and_kept_as_given(wrap: Any) -> None:
    actions = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)
    played = [Lottery("box", actions) for _ in range(2)]
    with VectorEnv(wrap(played)) as tasks:
        tasks.reset(0)
        given = np.array([[-3.0, 7.0], [0.5, -0.1]], np.float32)
        transition, _ = tasks.step(given)
    assert transition.action is given
    assert given.tolist() == [[-3.0, 7.0], [0.5, -np.float32(0.1)]]
    assert [env.seen[0].tolist() for env in played] == [[-1.0, 5.0], [0.5, 0.0]]
    assert all(env.seen[0] in actions for env in played)


def test_whole_numbers_are_rounded_for_the_environment_and_kept_as_given() -> None:
    actions = spaces.Box(0, 3, (2,), np.int8)
    played = Lottery("box", actions)
    with VectorEnv(played) as tasks:
        tasks.reset(0)
        given = np.array([[2.7, -0.6]], np.float32)
        transition, _ = tasks.step(given)
    assert transition.action is given
    assert played.seen[0] in actions
    assert played.seen[0].tolist() == [3, 0]


def test_discrete_actions_reach_the_environment_as_the_space_has_them() -> None:
    played = [Lottery(), Lottery()]
    with VectorEnv(played) as tasks:
        tasks.reset(0)
        tasks.step(np.array([0, 2], np.int32))
    assert all(env.seen[0] in env.action_space for env in played)


# Going on from a state --------------------------------------------------------------------------

RESTORABLE: dict[str, Callable[[], VectorEnv]] = FORMS | {
    "CartPole loop": lambda: envs.make("CartPole-v1", num_envs=2),
    "CartPole native": lambda: envs.make("CartPole-v1", num_envs=envs.NATIVE_FROM),
    "CartPole sync": lambda: VectorEnv(
        SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)  # with Gymnasium's wrappers
    ),
    "Pendulum": lambda: VectorEnv([gymnasium.make("Pendulum-v1") for _ in range(2)]),
    "Pendulum batched": lambda: VectorEnv(Pendulum(2)),
    "CartPole batched": lambda: VectorEnv(CartPole(2)),
}


def play(tasks: VectorEnv, steps: int, seed: int) -> list[Any]:
    """What comes of random actions, as numbers that have to be equal to the last bit."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(steps):
        low = np.zeros((tasks.num_envs, *(tasks.action_space.shape or ())))
        transition, obs = tasks.step(np.floor(rng.uniform(low, 2)))
        columns = ("obs", "reward", "next_obs", "terminated", "truncated", "valid")
        found.append([getattr(transition, name) for name in columns])
        found[-1] += [obs, list(tasks.episodes)]
    return found


@pytest.mark.parametrize("form", RESTORABLE)
def test_a_saved_state_goes_on_bit_for_bit(form: str) -> None:
    """At any moment: in an episode, at its end, before the first step. Through JSON and arrays."""
    ended = 0
    for before in (0, 1, 2, 3, 9, 30, 31, 32, 60):
        with RESTORABLE[form]() as tasks, RESTORABLE[form]() as other:
            tasks.reset(3)
            play(tasks, before, 0)
            arrays, state = split_state(tasks.state_dict())
            state = join_state(arrays, json.loads(json.dumps(state)))
            expected, last = play(tasks, 40, 1), deepcopy(tasks.obs)
            ended += sum(len(step[-1]) for step in expected)
            other.reset(77)
            play(other, 5, 2)
            with warnings.catch_warnings():
                warnings.simplefilter("error", RestoreWarning)
                assert other.load_state_dict(state).all()
            assert other.episodes == []
            assert equal(play(other, 40, 1), expected)
            assert equal(other.obs, last)
    assert ended or form.startswith("Pendulum")


def test_a_state_taken_does_not_change_with_what_follows() -> None:
    for form in RESTORABLE:
        with RESTORABLE[form]() as tasks:
            tasks.reset(3)
            play(tasks, 4, 0)
            state = tasks.state_dict()
            before = deepcopy(state)
            play(tasks, 20, 1)
            assert equal(state, before), form


class Forgetful(Lottery):
    """Counts its episodes over its whole life, which no replay of one of them brings back."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        _, info = super().reset(seed=seed)
        Forgetful.episodes += 1
        self.ticket = np.int64(Forgetful.episodes % 50)
        return self.observe(), info


@pytest.mark.parametrize("wrap", [list, in_sync])
def test_where_the_state_cannot_be_restored_new_episodes_begin_with_a_warning(wrap: Any) -> None:
    with VectorEnv(wrap([Forgetful(), Lottery()])) as tasks:
        tasks.reset(2)
        play(tasks, 7, 0)
        state, expected = tasks.state_dict(), tasks.obs
        with pytest.warns(RestoreWarning, match="1 of 2 environments"):
            restored = tasks.load_state_dict(state)
        obs = tasks.obs
        assert restored.tolist() == [False, True]
        assert obs[0].tolist() == [0, Forgetful.episodes % 50]  # a first observation
        assert obs[1].tolist() == expected[1].tolist()
        # The new episode is counted from its beginning, the other one goes on.
        assert tasks.state_dict()["lengths"].tolist() == [0, state["lengths"][1]]
        assert tasks.state_dict()["returns"].tolist() == [0.0, state["returns"][1]]
        assert all(episode.length <= 4 for _ in play(tasks, 20, 0) for episode in tasks.episodes)


def test_an_episode_longer_than_the_tape_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tape, "LONGEST", 10)
    for steps, restored in ((10, True), (11, False), (40, False)):
        with envs.make("Pendulum-v1", num_envs=1, seed=1) as tasks:
            tasks.reset()
            play(tasks, steps, 0)
            state, expected = tasks.state_dict(), tasks.obs
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RestoreWarning)
                tasks.load_state_dict(state)
            assert [w.category for w in caught] == ([] if restored else [RestoreWarning])
            assert equal(tasks.obs, expected) is restored


def test_a_vector_environment_of_unknown_insides_begins_anew() -> None:
    wrapped = RecordEpisodeStatistics(SyncVectorEnv([Lottery] * 2))
    with VectorEnv(wrapped) as tasks:
        tasks.reset(2)
        play(tasks, 7, 0)
        with pytest.warns(RestoreWarning, match="2 of 2 environments"):
            assert not tasks.load_state_dict(tasks.state_dict()).any()
        assert (tasks.obs[:, 0] == 0).all()
        assert tasks.step(act(tasks))[0].valid.all()


class InPlace(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Writes every observation into one array and does not say so; a reset pays a reward."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    num_envs = 2
    single_observation_space = spaces.Box(0, 9, (1,))
    observation_space = spaces.Box(0, 9, (2, 1))
    single_action_space = spaces.Discrete(2)
    action_space = spaces.MultiDiscrete([2, 2])

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.seen, self.over = np.zeros((2, 1), np.float32), False
        return self.seen, {}

    def step(self, action: Any) -> Any:
        resets, never = self.over, np.zeros(2, bool)
        self.seen[:] = 0 if resets else self.seen + 1
        self.over = bool(self.seen[0, 0] == 2)
        return self.seen, np.full(2, 7.0 if resets else 1.0), never | self.over, never, {}


def test_nothing_given_out_changes_when_a_foreign_environment_reuses_its_array() -> None:
    with VectorEnv(InPlace()) as tasks:
        tasks.reset(0)
        steps = [tasks.step(np.zeros(2, int))[0] for _ in range(6)]
        assert [float(step.obs[0, 0]) for step in steps] == [0, 1, 2, 0, 1, 2]
        assert [float(step.next_obs[0, 0]) for step in steps] == [1, 2, 0, 1, 2, 0]


class Doubled(gymnasium.vector.VectorWrapper):
    """Gives out its own array over and over, around one that copies."""

    def reset(self, **options: Any) -> Any:
        obs, info = self.env.reset(**options)
        self.given = 2 * obs
        return self.given, info

    def step(self, actions: Any) -> Any:
        obs, *rest = self.env.step(actions)
        return np.multiply(obs, 2, out=self.given), *rest


def test_nothing_given_out_changes_when_a_wrapper_reuses_its_array() -> None:
    with VectorEnv(Doubled(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2))) as tasks:
        first = tasks.reset(0).copy()
        step, _ = tasks.step(np.zeros(2, int))
        assert np.array_equal(step.obs, first)
        assert not np.array_equal(step.obs, step.next_obs)


class Spender(Lottery):
    """Changes the action that it was given."""

    def step(self, action: Any) -> Any:
        happened = super().step(action)
        action *= 2
        return happened


@pytest.mark.parametrize("actions", [spaces.MultiDiscrete([5, 5]), spaces.Box(-9, 9, (2,))])
def test_what_an_environment_does_to_its_action_changes_no_transition(actions: Any) -> None:
    given = np.ones((1, 2), actions.dtype)
    with VectorEnv(Spender("box", actions)) as tasks:
        tasks.reset(1)
        step, _ = tasks.step(given)
        assert np.array_equal(step.action, np.ones((1, 2)))
        assert not step.done.any()
        with warnings.catch_warnings():
            warnings.simplefilter("error", RestoreWarning)
            assert tasks.load_state_dict(tasks.state_dict()).all()


def test_what_a_step_pays_that_is_no_transition_is_not_in_the_return() -> None:
    with VectorEnv(InPlace()) as tasks:
        tasks.reset(0)
        returns = []
        for _ in range(8):
            tasks.step(np.zeros(2, int))
            returns += [episode.return_ for episode in tasks.episodes]
        assert returns == [2.0] * 6


STRUCTURED: dict[str, tuple[spaces.Space[Any], Any, list[Any]]] = {
    "multi_discrete": (
        spaces.MultiDiscrete([3, 2], start=[1, 0]),
        np.array([[1, 0], [3, 1]]),
        [[1, 0], [3, 1]],
    ),
    "multi_binary": (spaces.MultiBinary(2), np.array([[1, 0], [0, 1]]), [[1, 0], [0, 1]]),
    "dict": (
        spaces.Dict({"go": spaces.Box(-1, 1, (2,)), "what": spaces.Discrete(3, start=4)}),
        {"go": np.array([[5.0, 0.5], [-5.0, 0.0]]), "what": np.array([4, 6])},
        [{"go": [1.0, 0.5], "what": 4}, {"go": [-1.0, 0.0], "what": 6}],
    ),
    "tuple": (
        spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]),
        (np.array([0, 1]), np.array([[1, 1], [0, 1]])),
        [(0, [1, 1]), (1, [0, 1])],
    ),
}


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("name", STRUCTURED)
def test_every_environment_is_given_its_part_of_an_action(name: str, vectorized: bool) -> None:
    space, action, parts = STRUCTURED[name]
    singles = [Lottery("box", space), Lottery("box", space)]
    makers = [lambda env=env: env for env in singles]
    with VectorEnv(SyncVectorEnv(makers) if vectorized else singles) as tasks:
        tasks.reset(3)
        transition, _ = tasks.step(action)
        assert transition.action is action
        for env, part in zip(singles, parts, strict=True):
            assert env.seen[-1] in space
            assert as_lists(env.seen[-1]) == part
        for _ in range(5):
            tasks.step(action)
        arrays, tree = split_state(tasks.state_dict())
        state = join_state(arrays, json.loads(json.dumps(tree)))
        following = [rows(tasks, tasks.step(action)[1]) for _ in range(6)]
        tasks.reset(99)
        assert np.all(tasks.load_state_dict(state))
        assert equal([rows(tasks, tasks.step(action)[1]) for _ in range(6)], following)


def as_lists(action: Any) -> Any:
    if isinstance(action, dict):
        return {key: as_lists(part) for key, part in action.items()}
    if isinstance(action, tuple):
        return tuple(as_lists(part) for part in action)
    return np.asarray(action).tolist()


# What is refused --------------------------------------------------------------------------------


class Broken(Lottery):
    """Gives something else for a reset or a step than Gymnasium says."""

    def __init__(self, begun: Any = None, happened: Any = None) -> None:
        super().__init__("box")
        self.begun, self.happened = begun, happened

    def reset(self, **options: Any) -> Any:
        begun = super().reset(**options)
        return begun if self.begun is None else self.begun

    def step(self, action: Any) -> Any:
        happened = super().step(action)
        return happened if self.happened is None else self.happened


PLACED = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (
            {"begun": PLACED},
            r"resets to a ndarray: Gymnasium's reset gives a pair, \(observation, info",
        ),
        (
            {"happened": (PLACED, 1.0, False, {})},
            r"gives 4 values for a step: .* gives five, \(observ",
        ),
        (
            {"happened": (PLACED, np.ones(1), False, False, {})},
            r"shape \(1,\): it has to be one number",
        ),
        ({"begun": (PLACED[1:], {})}, r"^an observation of shape .* space is Box"),
        ({"happened": ("x", 1.0, False, False, {})}, r"^an observation .* space is Box"),
    ],
)
def test_what_is_not_as_gymnasium_has_it_is_named(given: Any, what: str) -> None:
    tasks = VectorEnv([Broken(**given)])

    def begin() -> None:
        tasks.reset(seed=0)
        tasks.step(np.zeros(1, int))

    with pytest.raises(ValueError, match=what):
        begin()


@pytest.mark.parametrize("none", ["CartPole-v1", None, [None], Lottery])
def test_what_is_no_environment_is_refused(none: Any) -> None:
    with pytest.raises(TypeError, match=r"is no Gymnasium environment: give one, .*envs.make"):
        VectorEnv(none)


def test_what_cannot_be_stepped_is_refused() -> None:
    with pytest.raises(ValueError, match="no environments"):
        VectorEnv([])
    one = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match="given twice: make another one for each place"):
        VectorEnv([one, gymnasium.make("CartPole-v1"), one])
    with pytest.raises(ValueError, match="equal spaces"):
        VectorEnv([Lottery("box"), Lottery("dict")])
    nested = spaces.Dict({"inner": spaces.Dict({"deep": ACTIONS})})
    for actions in (spaces.Text(5), nested, spaces.Tuple([ACTIONS, spaces.Text(5)])):
        with pytest.raises(ValueError, match=r"the action space is .*: only Discrete, Box, Multi"):
            VectorEnv(Lottery("box", actions))
    silent = SyncVectorEnv([Lottery])
    silent.metadata = {}
    with pytest.raises(ValueError, match=r"does not tell.*AutoresetMode\.SAME_STEP"):
        VectorEnv(silent)


def test_the_seed_of_an_environment_is_the_seed_and_its_index() -> None:
    for form in FORMS:
        with FORMS[form]() as tasks:
            first = rows(tasks, tasks.reset(11))
            expected = [Lottery().reset(seed=11 + i)[0] for i in range(tasks.num_envs)]
            assert equal(first, expected)
            tasks.reset()
            assert equal(rows(tasks, tasks.reset(11)), first)
            assert tasks.episodes == []
