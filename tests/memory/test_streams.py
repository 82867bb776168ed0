"""What a replay makes of interleaved episodes, against a plain list for each environment."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.core.files import join_state, split_state
from agents.memory import Replay
from agents.memory.replay import FIELDS
from envs.transition import Transition
from envs.vector import VectorEnv

many = settings(max_examples=80)
GAMMA = 0.9
FRAME = 3
KINDS: dict[str, dict[str, Any]] = {
    "beside": {"obs_size": FRAME},  # next_obs lies beside obs
    "once": {"obs_size": 256},
    "frames": {"obs_size": 3 * FRAME, "obs_dtype": np.uint8, "frames": 3},
    "two": {"obs_size": 2 * FRAME, "obs_dtype": np.float32, "frames": 2},
}


@dataclass
class Plain:
    """Every transition ever added, and in each environment the pieces of episodes they form."""

    n_step: int
    frames: int
    capacity: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    piece: list[list[int]] = field(default_factory=list)
    """Of each transition its piece: the numbers of the transitions in it."""
    current: dict[int, list[int]] = field(default_factory=dict)

    def add(self, step: Transition) -> None:
        for env, valid in enumerate(step.valid):
            if not valid:
                self.current.pop(env, None)
                continue
            piece = self.current.setdefault(env, [])
            piece.append(len(self.rows))
            self.piece.append(piece)
            self.rows.append({name: getattr(step, name)[env] for name in FIELDS})
            if step.done[env]:
                del self.current[env]

    def cut(self, where: np.ndarray) -> None:
        for env in np.flatnonzero(where):
            self.current.pop(int(env), None)

    @property
    def held(self) -> list[int]:
        """The transitions whose frames are all among the last `capacity`."""
        oldest = max(0, len(self.rows) - self.capacity)
        found = []
        for number in range(oldest, len(self.rows)):
            piece = self.piece[number]
            first = piece[max(0, piece.index(number) - self.frames + 1)]
            if first >= oldest:
                found.append(number)
        return found

    def sample(self, number: int) -> dict[str, Any]:
        piece = self.piece[number]
        at = piece.index(number)
        ahead = [self.rows[i] for i in piece[at : at + self.n_step]]
        reward = sum(GAMMA**i * float(row["reward"]) for i, row in enumerate(ahead))
        row = self.rows[number]
        return {**ahead[-1], "obs": row["obs"], "action": row["action"], "reward": reward} | {
            "steps": len(ahead)
        }


class Script:
    """Environments in which chance alone decides what is seen and when an episode ends."""

    def __init__(self, kind: str, envs: int, rng: np.random.Generator, chances: dict[str, float]):
        self.kind, self.envs, self.rng, self.chances = kind, envs, rng, chances
        self.options = KINDS[kind]
        self.frames = self.options.get("frames", 1)
        self.dtype = np.dtype(self.options.get("obs_dtype", np.float32))
        self.seen = 0
        self.resetting = np.zeros(envs, bool)
        self.stacks = [self.begun() for _ in range(envs)]

    def frame(self) -> np.ndarray:
        """One that was never seen before; in float32 it may hold what is not equal to itself."""
        self.seen += 1
        size = self.options["obs_size"] // self.frames
        frame = np.zeros(size, self.dtype)
        frame[:2] = self.seen // 256, self.seen % 256
        if self.dtype == np.float32 and self.rng.random() < self.chances["nan"]:
            frame[-1] = np.nan
        return frame

    def begun(self) -> deque[np.ndarray]:
        return deque([self.frame()] * self.frames, self.frames)

    def obs(self) -> np.ndarray:
        return np.stack([np.concatenate(list(stack)) for stack in self.stacks])

    def step(self) -> Transition:
        rng, envs, chance = self.rng, self.envs, self.chances
        obs, valid = self.obs(), ~self.resetting
        terminated, truncated = (rng.random((2, envs)) < chance["end"]) & valid
        for i in range(envs):
            if valid[i]:
                self.stacks[i].append(self.frame())
            else:
                self.stacks[i] = self.begun()
        next_obs, over = self.obs(), terminated | truncated
        self.resetting = (over & (rng.random(envs) < 0.5)) | (rng.random(envs) < chance["idle"])
        for env in np.flatnonzero((over | ~valid) & ~self.resetting):
            self.stacks[env] = self.begun()
        if self.frames == 1:  # nothing holds an environment to what it said came next
            for env in np.flatnonzero(rng.random(envs) < chance["jump"]):
                self.stacks[env] = self.begun()
        return Transition(
            obs,
            rng.integers(5, size=envs),
            rng.standard_normal(envs).astype(np.float32),
            next_obs,
            terminated,
            truncated,
            valid,
        )

    def cut(self) -> np.ndarray:
        where = self.rng.random(self.envs) < 0.5
        for env in np.flatnonzero(where):
            self.stacks[env], self.resetting[env] = self.begun(), False
        return where


@st.composite
def scripts(draw: Any, kinds: tuple[str, ...] = tuple(KINDS)) -> Script:
    chances = {
        "end": draw(st.sampled_from([0.0, 0.1, 0.4])),
        "idle": draw(st.sampled_from([0.0, 0.1])),
        "jump": draw(st.sampled_from([0.0, 0.2])),
        "nan": draw(st.sampled_from([0.0, 0.2])),
        "cut": draw(st.sampled_from([0.0, 0.2])),
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Script(draw(st.sampled_from(kinds)), draw(st.integers(1, 5)), rng, chances)


def new(script: Script, capacity: int, n_step: int = 1, **options: Any) -> Replay:
    rng = np.random.default_rng(1)
    return Replay(capacity, 7, 1.0, 0, rng, n_step=n_step, gamma=GAMMA, **script.options, **options)


def check(batch: Transition, numbers: list[int], plain: Plain) -> None:
    expected = [plain.sample(number) for number in numbers]
    for name in FIELDS:
        column = np.stack([row[name] for row in expected])
        found = np.asarray(getattr(batch, name))
        if name == "reward":
            np.testing.assert_allclose(found, column, rtol=1e-5, atol=1e-6)
        else:
            assert found.dtype == column.dtype
            np.testing.assert_array_equal(found, column)
    steps = [row["steps"] for row in expected]
    assert np.broadcast_to(np.asarray(batch.steps), len(numbers)).tolist() == steps
    assert batch.valid.all()
    ahead = np.array([0.0 if r["terminated"] else GAMMA ** r["steps"] for r in expected])
    np.testing.assert_allclose(np.asarray(batch.discount(GAMMA)), ahead, rtol=1e-6)


SIZES = st.one_of(st.integers(1, 12), st.integers(20, 60))


@given(script=scripts(), capacity=SIZES, n_step=st.integers(1, 5), steps=st.integers(1, 30))
@many
def test_it_holds_what_plain_lists_hold(script, capacity, n_step, steps):
    memory = new(script, capacity, n_step)
    plain = Plain(n_step, script.frames, capacity)
    for _ in range(steps):
        step = script.step()
        memory.add(step)
        plain.add(step)
        if script.rng.random() < script.chances["cut"]:
            where = script.cut()
            memory.cut(where)
            plain.cut(where)
        assert memory.added == len(plain.rows)
        if held := plain.held:
            check(memory.sample(np.array(held)), held, plain)


@given(script=scripts(), capacity=st.integers(20, 60), alpha=st.sampled_from([0.0, 0.6]))
@many
def test_what_it_draws_is_what_it_holds_whole(script, capacity, alpha):
    memory = new(script, capacity, 3, priority_exponent=alpha)
    plain = Plain(3, script.frames, capacity)
    for _ in range(40):
        step = script.step()
        memory.add(step)
        plain.add(step)
        rows = {plain.rows[i]["obs"].tobytes(): i for i in plain.held}
        for batch in memory.batches():
            numbers = [rows[obs.numpy().tobytes()] for obs in batch.obs]  # KeyError: not held
            check(batch, numbers, plain)
            if alpha:
                assert batch.extras["index"].tolist() == numbers
                errors = script.rng.standard_normal(7).astype(np.float32)
                memory.reprioritize(batch.extras["index"], errors)
                # also what was overwritten or lacks frames: it must stay undrawn
                known = np.arange(max(0, memory.added - capacity - 3), memory.added)
                memory.reprioritize(known, np.full(len(known), 0.5))


@given(
    script=scripts(),
    capacity=st.integers(20, 60),
    n_step=st.integers(1, 4),
    alpha=st.sampled_from([0.0, 0.6]),
    before=st.integers(1, 25),
    after=st.integers(1, 25),
)
@many
def test_saved_in_segments_at_any_moment_it_goes_on_as_if_nothing_had_happened(
    script, capacity, n_step, alpha, before, after
):
    memory = new(script, capacity, n_step, priority_exponent=alpha)
    segments: list[tuple[int, int, dict[str, np.ndarray]]] = []

    def play(memories: list[Replay]) -> None:
        step = script.step()
        where = script.cut() if script.rng.random() < script.chances["cut"] else None
        errors = script.rng.standard_normal(7)
        for each in memories:
            each.add(step)
        found = [list(each.batches()) for each in memories]
        for each, batches in zip(memories, found, strict=True):
            for batch in batches[:2] if alpha else []:
                each.reprioritize(batch.extras["index"], errors)
            if where is not None:
                each.cut(where)
        for same_update in zip(*found, strict=True):
            same(*same_update)

    def save() -> None:
        """What a checkpoint does: write what no segment holds yet, drop what is overwritten."""
        oldest = max(0, memory.added - capacity)
        segments[:] = [s for s in segments if s[1] > oldest]
        start = max(oldest, segments[-1][1] if segments else 0)
        if start < memory.added:
            segments.append((start, memory.added, memory.rows(start, memory.added)))

    for _ in range(before):
        play([memory])
        if script.rng.random() < 0.3:
            save()
    save()
    twin = new(script, capacity, n_step, priority_exponent=alpha)
    for start, _, rows in segments:
        twin.restore(start, rows)
    twin.load_state_dict(join_state(*split_state(memory.state_dict())))
    for _ in range(after):
        play([memory, twin])
    (ours, tree), (theirs, other) = (split_state(m.state_dict()) for m in (memory, twin))
    assert tree == other
    assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}
    if memory._tree is not None and twin._tree is not None:
        assert memory._tree.weights.tobytes() == twin._tree.weights.tobytes()


def same(one: Transition, *others: Transition) -> None:
    for other in others:
        for name in FIELDS:
            assert getattr(one, name).numpy().tobytes() == getattr(other, name).numpy().tobytes()
        assert np.array_equal(one.steps, other.steps)
        for name in one.extras:
            assert one.extras[name].equal(other.extras[name])


@pytest.mark.parametrize("kind", ["once", "frames"])
def test_the_successor_takes_no_memory_of_its_own(kind):
    """Of 3 environments the pool holds what came last, and what came at each end."""
    chances = {"end": 0.0, "idle": 0.0, "jump": 0.0, "nan": 0.0, "cut": 0.0}
    script = Script(kind, 3, np.random.default_rng(0), chances)
    memory = new(script, 60)
    for _ in range(100):
        memory.add(script.step())
    assert len(memory._pool.rows) == 1 + 2 * 3  # none, those of this step and of the one before
    chances["end"] = 0.3
    for _ in range(100):
        memory.add(script.step())
    ends = np.count_nonzero(memory.rows(memory.oldest, memory.added)["own"])
    assert len(memory._pool.rows) - 1 - len(memory._pool._free) == ends


def test_other_environments_begin_other_episodes():
    """As many more or fewer as there may be, none goes on where one of the old ones was."""
    options = {"end": 0.0, "idle": 0.0, "jump": 0.0, "nan": 0.0, "cut": 0.0}
    rng = np.random.default_rng(0)
    scripts = [Script("frames", envs, rng, options) for envs in (2, 3, 1)]
    memory = new(scripts[0], 100, 5)
    for script in scripts:
        for _ in range(3):
            memory.add(script.step())
    steps = np.asarray(memory.sample(np.arange(memory.added)).steps)
    assert steps.tolist() == [3, 3, 2, 2, 1, 1] + [3] * 3 + [2] * 3 + [1] * 3 + [3, 2, 1]


def stacks(*frames: int) -> np.ndarray:
    return np.repeat(np.array(frames, np.uint8), FRAME)[None]


def given_stacks(memory: Replay, obs: np.ndarray, next_obs: np.ndarray, done: bool = False) -> None:
    flag = np.array([False])
    memory.add(Transition(obs, flag.astype(int), np.zeros(1), next_obs, flag | done, flag, ~flag))


@pytest.mark.parametrize(
    ("obs", "next_obs", "done", "says"),
    [
        (stacks(1, 1, 2), stacks(1, 2, 3), True, "does not begin with its first frame repeated"),
        (stacks(0, 0, 2), stacks(0, 2, 3), True, "does not begin with its first frame repeated"),
        (stacks(1, 1, 2), stacks(1, 1, 3), False, "next_obs is not obs with one frame more"),
        (stacks(1, 1, 3), stacks(1, 3, 4), False, "obs is not the next_obs of the step before"),
        (stacks(0, 1, 2), stacks(1, 2, 4), False, "obs is not the next_obs of the step before"),
    ],
)
def test_what_is_no_stack_of_frames_is_refused_and_leaves_nothing_behind(obs, next_obs, done, says):
    script = Script("frames", 1, np.random.default_rng(0), {"nan": 0.0})
    memory = new(script, 10)
    given_stacks(memory, stacks(1, 1, 1), stacks(1, 1, 2), done)
    before = memory.state_dict()
    with pytest.raises(ValueError, match=says):
        given_stacks(memory, obs, next_obs)
    assert memory.state_dict() == before
    if not done:
        given_stacks(memory, stacks(1, 1, 2), stacks(1, 2, 3))
    batch = memory.sample(np.array([0]))
    assert batch.next_obs.tolist() == stacks(1, 1, 2).tolist()


def test_where_no_stack_is_whole_it_says_so():
    chances = {"end": 0.0, "idle": 0.0, "jump": 0.0, "nan": 0.0}
    for alpha in (0.0, 0.5):
        script = Script("frames", 5, np.random.default_rng(0), chances)
        memory = new(script, 8, priority_exponent=alpha)
        for _ in range(10):
            memory.add(script.step())
        with pytest.raises(ValueError, match="buffer_size is 8: no observation of 3 frames"):
            next(memory.batches())


@given(n=st.integers(2, 4), envs=st.integers(1, 5), seed=SIZES)
@many
def test_with_the_room_that_it_asks_for_a_return_has_n_steps_and_with_less_none_has(n, envs, seed):
    chances = {"end": 0.0, "idle": 0.0, "jump": 0.0, "nan": 0.0}
    script = Script("beside", envs, np.random.default_rng(seed), chances)
    least = (n - 1) * envs + 1
    enough, little = (new(script, room, n_step=n) for room in (least, least - 1))
    enough.check_room(envs)
    with pytest.raises(ValueError, match=f"^buffer_size is {least - 1}: use {least} or more"):
        little.check_room(envs)
    for _ in range(3 * n):
        step = script.step()
        enough.add(step)
        little.add(step)
    for memory, most in ((enough, n), (little, n - 1)):
        rows = memory.sample(np.arange(len(memory)))
        assert int(torch.as_tensor(rows.steps).max()) == most


def test_one_step_of_all_environments_has_to_fit():
    chances = {"end": 0.0, "idle": 0.0, "jump": 0.0, "nan": 0.0}
    script = Script("beside", 5, np.random.default_rng(0), chances)
    new(script, 5).check_room(5)
    with pytest.raises(ValueError, match=r"^buffer_size is 4: use 5 or more, for n_step 1 in each"):
        new(script, 4).check_room(5)


@given(frames=st.sampled_from([("frames", 3), ("two", 2)]), envs=st.integers(1, 5), extra=SIZES)
@many
def test_with_the_room_that_it_asks_for_a_stack_is_always_whole(frames, envs, extra):
    kind, count = frames
    chances = {"end": 0.0, "idle": 0.1, "jump": 0.0, "nan": 0.0}
    script = Script(kind, envs, np.random.default_rng(extra), chances)
    least = count * envs
    with pytest.raises(ValueError, match=f"^buffer_size is {least - 1}: use {least} or more"):
        new(script, least - 1).check_room(envs)
    memory = new(script, least)
    memory.check_room(envs)
    for _ in range(20):
        memory.add(script.step())
        for batch in memory.batches():
            assert len(batch.reward) == 7


ATARI: dict[str, Any] = {"obs_size": 4 * 84 * 84, "obs_dtype": np.uint8, "frames": 4}


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_million_stacks_of_atari_frames_take_7_gigabytes(alpha):
    """Reserved, not touched: the memory of this process stays small."""
    rng = np.random.default_rng(0)
    try:
        memory = Replay(10**6, 32, 0.25, 0, rng, **ATARI, n_step=3, priority_exponent=alpha)
    except ValueError as error:
        pytest.skip(str(error))
    frame = 84 * 84
    ends = 10_000  # one in every hundred transitions, more than any Atari game has
    # The pool grows by an eighth. Each of its rows is one frame.
    assert memory.nbytes + ends * frame * 9 // 8 <= 7.2e9
    assert memory._columns["obs"].dtype == np.uint8


def test_bytes_are_those_of_the_arrays_and_grow_with_the_ends():
    script = Script("frames", 2, np.random.default_rng(0), {"end": 0.5, "idle": 0, "nan": 0})
    memory, size = new(script, 1000, priority_exponent=0.5), FRAME
    row = size + 8 + 4 + 1 + 1 + 4 + 4 + 4
    assert memory.nbytes == 1000 * row + 8 * 1000 + size
    for _ in range(100):
        memory.add(script.step())
    assert memory.nbytes == 1000 * row + 8 * 1000 + len(memory._pool.rows) * size


@pytest.mark.parametrize("capacity", [10**14, 10**18, 10**40])
def test_more_than_there_is_memory_for_is_refused(capacity):
    with pytest.raises(ValueError, match=rf"buffer_size is {capacity}: it would take \d+,.* bytes"):
        Replay(capacity, 1, 1.0, 0, np.random.default_rng(0), obs_size=4)


class Noise(gymnasium.Env[Any, Any]):
    """Pictures of noise, in episodes of any length."""

    observation_space = spaces.Box(0, 255, (3, 2), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        ends = self.np_random.random(2) < 0.1
        return self.observation_space.sample(), 1.0, bool(ends[0]), bool(ends[1]), {}


@pytest.mark.parametrize("mode", AutoresetMode)
def test_stacks_as_gymnasium_makes_them_come_back_whole(mode):
    """Whenever an environment is reset: in the step itself, in the next one, or when told to."""
    makers = [lambda: FrameStackObservation(Noise(), 4)] * 3
    with VectorEnv(SyncVectorEnv(makers, autoreset_mode=mode)) as tasks:
        tasks.reset(0)
        rng = np.random.default_rng(0)
        memory = Replay(10_000, 8, 1.0, 0, rng, obs_size=24, obs_dtype=np.uint8, frames=4)
        seen: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in range(200):
            step, _ = tasks.step(np.zeros(3, np.int64))
            flat = [np.reshape(x, (3, 24)) for x in (step.obs, step.next_obs)]
            memory.add(replace(step, obs=flat[0], next_obs=flat[1]))
            seen += list(zip(*(x[step.valid] for x in flat), strict=True))
    batch = memory.sample(np.arange(memory.added))
    assert memory.added == len(seen) >= 400
    assert 50 < int(batch.done.sum()) < 200
    for found, expected in zip((batch.obs, batch.next_obs), zip(*seen, strict=True), strict=True):
        np.testing.assert_array_equal(found, np.stack(expected))
