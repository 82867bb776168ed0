"""Replay: a ring of past transitions, drawn from uniformly or by priority.

Lin 1992; Mnih et al. 2015; with n-step targets as in Sutton 1988 and Hessel et al. 2018, and
proportional priorities, Schaul et al. 2016, "Prioritized experience replay".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from agents.memory.pool import Pool
from agents.memory.sum_tree import SumTree
from envs.transition import Transition

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")

Column = tuple[tuple[int, ...], Any]
"""The shape and the type of one row."""

ONCE_FROM = 1024
"""Bytes from which on an observation is stored once. For a small one, finding where the successor
lies takes longer than reading a `next_obs` that lies ready, and there is little memory to save."""

LEAST_ERROR = 1e-6
"""Added to an absolute TD error: a transition that was right once is still drawn some time."""


class NoStacks(ValueError):
    """Observations that are not the stacks of frames that a replay was told to expect."""


class Replay:
    """Keeps the last `capacity` transitions and yields a batch `(B,)` for each update due.

    `updates_per_step` updates fall due with every transition, whatever the number of environments;
    a remainder is carried over. They are held back to one burst every `train_every` transitions:
    acting and learning then find their code and data in the processor's caches. Nothing is due
    before `learning_starts` transitions.

    Transitions are numbered from 0 in the order they were added; number i lies at i % `capacity`.

    With `n_step` > 1 a drawn transition reaches up to so many steps ahead in its environment's
    episode: `reward` is Σ γ^i r_i, `next_obs`, `terminated` and `truncated` are those of the last
    one, and `steps` says how many there are. Fewer at the end of an episode, before a cut, and
    where the next one has not been added yet.

    An observation of `ONCE_FROM` bytes or more is stored once: the successor of a transition is
    what the next one in its episode began with, and only the ends of episodes and the newest of
    each environment have one of their own. With `frames` = k > 1 an observation is a stack of k
    frames (oldest first, as `gymnasium.wrappers.FrameStackObservation` makes it, flattened), of
    which only the newest is stored. A million transitions with stacks of four 84×84 frames take
    7.1 GB, the frames themselves being 7.06 GB of that, and 8 kB more for each end of an episode.

    With `priority_exponent` α > 0 a transition is drawn with probability p^α / Σ p^α, where p is
    the absolute TD error last handed to `reprioritize` plus `LEAST_ERROR`; a new one has the
    highest p^α so far. A batch has in its extras `index`, the transitions' numbers (on the host),
    and `weight`, (N P)^-β over its largest in the batch: what each loss is to be multiplied by. β
    goes from `importance_exponent` linearly to 1 while `importance_steps` transitions are added.
    With `numbered` a uniform batch has the `index` too.

    Raises ValueError for options that make no sense and where memory does not suffice.
    """

    raw = True
    """Observations are kept as they came: a normaliser moves on after they were stored."""

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        updates_per_step: float,
        learning_starts: int,
        rng: np.random.Generator,
        device: torch.device | str = "cpu",
        train_every: int = 1,
        *,
        obs_size: int,
        obs_dtype: Any = np.float32,
        action_shape: tuple[int, ...] = (),
        action_dtype: Any = np.int64,
        n_step: int = 1,
        gamma: float = 0.99,
        frames: int = 1,
        priority_exponent: float = 0.0,
        importance_exponent: float = 0.4,
        importance_steps: int = 100_000,
        numbered: bool = False,
    ) -> None:
        for name, value in (
            ("buffer_size", capacity),
            ("batch_size", batch_size),
            ("train_every", train_every),
            ("n_step", n_step),
            ("frames", frames),
            ("importance_steps", importance_steps),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}: use 1 or more")
        for name, number in (
            ("gamma", gamma),
            ("priority_exponent", priority_exponent),
            ("importance_exponent", importance_exponent),
        ):
            if not 0 <= number <= 1:
                raise ValueError(f"{name} is {number}: use a number in [0, 1]")
        if not updates_per_step > 0:
            raise ValueError(f"updates_per_step is {updates_per_step}: use a positive number")
        if obs_size % frames:
            raise ValueError(f"frames is {frames}: {obs_size} numbers are not so many equal frames")
        self.capacity = capacity
        self.batch_size = batch_size
        self.updates_per_step = updates_per_step
        self.learning_starts = learning_starts
        self.rng = rng
        self.device = device
        self.train_every = train_every
        self.n_step = n_step
        self.gamma = gamma
        self.frames = frames
        self.prioritized = priority_exponent > 0
        self.priority_exponent = priority_exponent
        self.importance_exponent = importance_exponent
        self.importance_steps = importance_steps
        self.numbered = numbered
        self.added = 0
        """Transitions ever added; the newest lies at (added - 1) % capacity."""
        self.drawn = 0
        """Batches ever drawn."""
        self.largest = 1.0
        """The highest p^α so far."""
        self._open = np.full(0, -1)
        """Of each environment the number of the transition that its next one follows, or -1."""
        frame, dtype = obs_size // frames, np.dtype(obs_dtype)
        self._once = frames > 1 or obs_size * dtype.itemsize >= ONCE_FROM
        self._linked = self._once or n_step > 1
        columns: dict[str, Column] = {
            "obs": ((frame,), dtype),
            "action": (action_shape, action_dtype),
            "reward": ((), np.float32),
            "terminated": ((), bool),
            "truncated": ((), bool),
        }
        if not self._once:
            columns["next_obs"] = ((obs_size,), dtype)
        if self._linked:
            columns["back"] = ((), np.int32)  # how many numbers before it its predecessor is, or 0
        aside: dict[str, Column] = {}
        if self._linked:
            aside["link"] = ((), np.int32)  # how many numbers behind it its successor is, or 0
        if self._once:
            aside["slot"] = ((), np.int32)  # where in the pool its own next_obs lies, or 0
        self._tree: SumTree | None = None
        try:
            self._columns = _allocate(capacity, columns)  # what a transition is: never changes
            self._aside = _allocate(capacity, aside)  # what becomes of it later
            if self.prioritized:
                self._tree = SumTree(capacity)
        except (MemoryError, ValueError, OverflowError):  # NumPy's answers to too large an array
            each = sum(
                math.prod(shape) * np.dtype(kind).itemsize
                for shape, kind in (*columns.values(), *aside.values())
            )
            raise ValueError(
                f"buffer_size is {capacity}: it would take {capacity * each:,} bytes, more than "
                "can be had; where observations are stacks of frames, frames keeps each frame once"
            ) from None
        self._pool = Pool(frame, dtype)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored now, with the room for what is still to come."""
        arrays = [*self._columns.values(), *self._aside.values(), self._pool.rows]
        tree = 0 if self._tree is None else self._tree.nbytes
        return tree + sum(array.nbytes for array in arrays)

    @property
    def oldest(self) -> int:
        """The number of the oldest transition held."""
        return max(0, self.added - self.capacity)

    # When ----------------------------------------------------------------------------------------

    @property
    def due(self) -> int:
        """Updates due: counted from the start, so that no rounding of a remainder adds up."""
        counted = max(0, self.added - self.learning_starts)
        counted -= counted % self.train_every
        return int(counted * self.updates_per_step) - self.drawn

    def batches(self) -> Iterator[Transition]:
        """A batch of tensors `(B, ...)` for each update due, drawn when it is asked for."""
        while self.due > 0:
            self.drawn += 1
            yield self._by_priority() if self.prioritized else self._uniformly()

    # Adding --------------------------------------------------------------------------------------

    def add(self, transition: Transition) -> None:
        """Store the valid ones of N transitions.

        Raises NoStacks, and stores nothing, where frames are stacked and an observation is not
        the stack that follows from those before it.
        """
        rows, valid = {name: getattr(transition, name) for name in FIELDS}, transition.valid
        if not valid.all():
            rows = {name: array[valid] for name, array in rows.items()}
        count = len(rows["reward"])
        if self._linked:
            self._follow(rows, valid)
        if count == 0:
            return
        if self._tree is not None and self.frames > 1:
            self._retire(self._tree, count)
        self._write(rows, self.added)
        self.added += count
        if self._tree is not None:
            self._give_largest(self._tree, count)

    def cut(self, where: np.ndarray) -> None:
        """Where `(N,)` is true an environment begins anew in the midst of an episode."""
        if len(self._open) != len(where):
            self._open = np.full(len(where), -1)
        self._open[where] = -1

    def _follow(self, rows: dict[str, np.ndarray], valid: np.ndarray) -> None:
        """Put into the rows what follows what. A step that an environment spent on being reset
        ends its episode, if nothing else did."""
        if len(self._open) != len(valid):  # other environments: all of them begin
            self._open = np.full(len(valid), -1)
        before = self._open[valid]
        number = np.arange(self.added, self.added + len(before))
        if self.frames > 1 and len(before):
            self._check_stacks(rows["obs"], rows["next_obs"], before)
            size = self._columns["obs"].shape[1]
            rows["obs"], rows["next_obs"] = rows["obs"][:, -size:], rows["next_obs"][:, -size:]
        rows["back"] = np.where(before >= 0, number - before, 0)
        if self._once:
            rows["own"] = np.ones(len(before), bool)
        self._open = np.full(len(valid), -1)
        self._open[valid] = np.where(rows["terminated"] | rows["truncated"], -1, number)

    def _check_stacks(self, obs: np.ndarray, next_obs: np.ndarray, before: np.ndarray) -> None:
        """Whether these stacks `(M, k frames)` can be rebuilt from what is stored."""
        shape = (len(obs), self.frames, -1)
        obs, next_obs = obs.reshape(shape), next_obs.reshape(shape)
        if not _same(next_obs[:, :-1], obs[:, 1:]).all():
            self._refuse("next_obs is not obs with one frame more at its end")
        begins = before < 0
        if not _same(obs[begins, :-1], obs[begins, 1:]).all():
            self._refuse("an episode does not begin with its first frame repeated")
        number = self._chain(before[~begins])
        held = number >= self.oldest  # what was overwritten is not drawn either
        frames = self._columns["obs"].take(number[:, 1:] % self.capacity, axis=0)
        newest = self._pool.rows.take(self._aside["slot"].take(before[~begins] % self.capacity), 0)
        expected = np.concatenate([frames, newest[:, None]], axis=1)
        known = np.concatenate([held[:, 1:], held[:, -1:]], axis=1)
        if not (_same(obs[~begins], expected) | ~known).all():
            self._refuse("obs is not the next_obs of the step before")

    def _refuse(self, why: str) -> None:
        raise NoStacks(
            f"frames is {self.frames}, but {why}: use FrameStackObservation(env, {self.frames}) "
            "around the environment, or frames 1 to store whole observations"
        )

    def _write(self, rows: Mapping[str, np.ndarray], start: int) -> None:
        """Store rows as the transitions from number `start` on, linked to those before them."""
        stop = start + len(rows["reward"])
        if stop - start > self.capacity:  # more rows than room: the last ones stay
            rows, start = _last(rows, self.capacity), stop - self.capacity
        first, last = start % self.capacity, (stop - 1) % self.capacity
        place: Any = slice(first, last + 1)
        if last < first:
            place = np.arange(start, stop) % self.capacity
        for name, column in self._columns.items():
            column[place] = rows[name]
        if self._once:
            slot = self._aside["slot"]
            self._pool.drop(slot[place][slot[place] > 0])
            slots = np.zeros(stop - start, np.int32)
            slots[rows["own"]] = self._pool.put(rows["next_obs"])
            slot[place] = slots
        if self._linked:
            self._aside["link"][place] = 0
            self._link(np.arange(start, stop), rows["back"])

    def _link(self, number: np.ndarray, back: np.ndarray) -> None:
        """Tell the predecessors of these newest transitions of them, and drop what both hold."""
        before = number - back
        linked = (back > 0) & (before > number[-1] - self.capacity)
        place, before = number[linked] % self.capacity, before[linked] % self.capacity
        self._aside["link"][before] = back[linked]
        if self._once:
            slot = self._aside["slot"].take(before)
            both = slot > 0
            place, before, slot = place[both], before[both], slot[both]
            same = _same(self._pool.rows.take(slot, 0), self._columns["obs"].take(place, 0))
            self._pool.drop(slot[same])
            self._aside["slot"][before[same]] = 0

    # Drawing -------------------------------------------------------------------------------------

    def sample(
        self, index: np.ndarray, extras: Mapping[str, torch.Tensor] | None = None
    ) -> Transition:
        """The transitions with these numbers as tensors, up to `n_step` steps ahead of each."""
        place = index % self.capacity
        columns, last, steps = self._columns, place, None
        if self.n_step > 1:
            reward, last, steps = self._fold(place)
        else:
            reward = columns["reward"].take(place)
        if self._once:
            obs, next_obs = self._stack(self._chain(place)), self._next_stack(last)
        else:
            obs = columns["obs"].take(place, axis=0)
            next_obs = columns["next_obs"].take(last, axis=0)
        return Transition(
            self._tensor(obs),
            self._tensor(columns["action"].take(place, axis=0)),
            self._tensor(reward),
            self._tensor(next_obs),
            self._tensor(columns["terminated"].take(last)),
            self._tensor(columns["truncated"].take(last)),
            torch.ones(len(index), dtype=torch.bool, device=self.device),
            extras or {},
            1 if steps is None else self._tensor(steps),
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _fold(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Σ γ^i r_i from here on, the place of the last transition in it, and how many there are.

        Nothing follows the end of an episode, a cut, and the newest transition.
        """
        reward, link = self._columns["reward"], self._aside["link"]
        total, last, steps = reward.take(place), place, np.ones(len(place), np.int64)
        for i in range(1, self.n_step):
            ahead = link.take(last)
            follows = ahead > 0
            last = (last + ahead) % self.capacity
            total += np.where(follows, np.float32(self.gamma**i) * reward.take(last), 0)
            steps += follows
        return total, last, steps

    def _chain(self, number: np.ndarray) -> np.ndarray:
        """The transitions whose frames make up the observation of each, `(M, k)`, oldest first.

        Those before an episode's first are that one. One that was overwritten is succeeded, to the
        left, by such only: the numbers never rise again.
        """
        chain = [number]
        for _ in range(self.frames - 1):
            number = number - self._columns["back"].take(number % self.capacity)
            chain.append(number)
        return np.stack(chain[::-1], axis=1)

    def _stack(self, chain: np.ndarray) -> np.ndarray:
        """The observations `(M, size)` that consist of these transitions' frames."""
        return self._columns["obs"].take(chain % self.capacity, axis=0).reshape(len(chain), -1)

    def _next_stack(self, place: np.ndarray) -> np.ndarray:
        """The successors' observations, `(M, size)`."""
        link, slot = (self._aside[name].take(place) for name in ("link", "slot"))
        chain = np.concatenate([self._chain(place)[:, 1:], (place + link)[:, None]], axis=1)
        stack, own = self._stack(chain), np.flatnonzero(slot)
        stack[own, -self._pool.rows.shape[1] :] = self._pool.rows.take(slot[own], 0)
        return stack

    def _whole(self, number: np.ndarray) -> np.ndarray:
        """Where every frame of the observation is still held."""
        whole: np.ndarray = self._chain(number)[:, 0] >= self.oldest
        return whole

    def _uniformly(self) -> Transition:
        """A batch in which each transition is as likely."""
        index = self._uniform()
        if not self.numbered:
            return self.sample(index)
        index = self._number(index)
        return self.sample(index, {"index": torch.from_numpy(index)})

    def _number(self, place: np.ndarray) -> np.ndarray:
        """The numbers of the transitions that lie at these places; a number stays what it is."""
        number: np.ndarray = self.added - 1 - (self.added - 1 - place) % self.capacity
        return number

    def _uniform(self) -> np.ndarray:
        """Numbers, or with one frame places, of a batch: each transition is as likely."""
        index = self.rng.integers(len(self), size=self.batch_size)
        if self.frames > 1:
            index += self.oldest
            broken = ~self._whole(index)
            if broken.any():
                held = np.arange(self.oldest, self.added)
                held = held[self._whole(held)]
                if not len(held):
                    raise self._too_small()
                index[broken] = self.rng.choice(held, np.count_nonzero(broken))
        return index

    def check_room(self, num_envs: int) -> None:
        """Raise ValueError where a step of so many environments does not fit, or their steps leave
        no stack whole, or no return of n steps."""
        if self.capacity < (least := max((self.n_step - 1) * num_envs + 1, num_envs)):
            raise ValueError(
                f"buffer_size is {self.capacity}: use {least} or more, for n_step {self.n_step} in "
                f"each of {num_envs} environments"
            )
        if self.frames > 1 and self.capacity < (least := self.frames * num_envs):
            raise ValueError(
                f"buffer_size is {self.capacity}: use {least} or more, for stacks of "
                f"{self.frames} frames from each of {num_envs} environments"
            )

    def _too_small(self) -> ValueError:
        return ValueError(
            f"buffer_size is {self.capacity}: no observation of {self.frames} frames is held "
            "whole; use at least frames times the number of environments"
        )

    # Priorities ----------------------------------------------------------------------------------

    def reprioritize(self, index: Any, td_error: Any) -> None:
        """Tell the TD errors `(B,)` of the transitions with these numbers, as arrays or tensors.

        Those that have been overwritten since and errors that are not finite are passed over.
        Without priorities there is nothing to do.
        """
        if self._tree is None:
            return
        index = torch.as_tensor(index).cpu().numpy()
        error = torch.as_tensor(td_error).detach().cpu().numpy().astype(np.float64)
        if index.shape != error.shape:
            raise ValueError(f"td_error is {error.shape}: give one for each index, {index.shape}")
        kept = np.isfinite(error) & (index >= self.oldest) & (index < self.added)
        if self.frames > 1:
            kept &= self._whole(index)
        if not kept.all():
            index, error = index[kept], error[kept]
        if len(index):
            weight = (np.abs(error) + LEAST_ERROR) ** self.priority_exponent
            self._tree.set(index % self.capacity, weight)
            self.largest = max(self.largest, float(weight.max()))

    def _by_priority(self) -> Transition:
        """A batch with a transition from each of B equal parts of the sum of the p^α."""
        assert self._tree is not None
        share = (np.arange(self.batch_size) + self.rng.random(self.batch_size)) / self.batch_size
        try:
            place = self._tree.find(share)
        except ValueError:
            raise self._too_small() from None
        index = self._number(place)
        weight = self._tree.weights.take(place)
        weight = (weight / weight.min()) ** -self.beta  # N and the sum cancel out
        extras = {
            "index": torch.from_numpy(index),  # on the host, where it is to come back
            "weight": self._tensor(weight.astype(np.float32)),
        }
        return self.sample(index, extras)

    @property
    def beta(self) -> float:
        """The exponent of the importance weights now."""
        done = min(1.0, self.added / self.importance_steps)
        return self.importance_exponent + (1.0 - self.importance_exponent) * done

    def _give_largest(self, tree: SumTree, count: int) -> None:
        """The newest transitions have the highest weight so far."""
        start = max(self.oldest, self.added - count)
        if self.frames > 1:
            number = np.arange(start, self.added)
            tree.set(number % self.capacity, np.where(self._whole(number), self.largest, 0.0))
            return
        first, last = start % self.capacity, (self.added - 1) % self.capacity
        if first <= last:
            tree.set_range(first, last + 1, self.largest)
        else:
            tree.set_range(first, self.capacity, self.largest)
            tree.set_range(0, last + 1, self.largest)

    def _retire(self, tree: SumTree, count: int) -> None:
        """Before `count` are overwritten: what has frames of theirs is not drawn any more."""
        stop = min(self.added, max(0, self.added + count - self.capacity))
        number = np.arange(self.oldest, stop)
        for _ in range(self.frames - 1):
            number = number + self._aside["link"].take(number % self.capacity)
            tree.set(number % self.capacity, 0.0)

    # Saving --------------------------------------------------------------------------------------

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Copies of the transitions added from number `start` to before `stop`."""
        place = np.arange(start, stop) % self.capacity
        rows = {name: column.take(place, axis=0) for name, column in self._columns.items()}
        if self._once:
            slot = self._aside["slot"].take(place)
            rows["own"] = slot > 0
            rows["next_obs"] = self._pool.rows.take(slot[slot > 0], axis=0)
        return rows

    def restore(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Put back what `rows` gave: in order, without gaps, and before `load_state_dict`."""
        self._write(rows, start)

    def state_dict(self) -> dict[str, Any]:
        """What changes with time. The rows are saved apart, in segments that only grow."""
        state = {
            "added": self.added,
            "drawn": self.drawn,
            "rng": self.rng.bit_generator.state,
            "open": self._open.tolist(),
        }
        if self._tree is not None:
            place = np.arange(self.oldest, self.added) % self.capacity
            state |= {"priorities": self._tree.weights.take(place), "largest": self.largest}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave, once the rows are back."""
        self.added = int(state["added"])
        self.drawn = int(state["drawn"])
        self.rng.bit_generator.state = state["rng"]
        self._open = np.array(state["open"], np.int64)
        if self._tree is not None:
            weights = np.zeros(self.capacity)
            weights[np.arange(self.oldest, self.added) % self.capacity] = state["priorities"]
            self._tree.rebuild(weights)
            self.largest = float(state["largest"])


def _allocate(capacity: int, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Zeros, which take up memory only once something is written there."""
    return {name: np.zeros((capacity, *shape), kind) for name, (shape, kind) in columns.items()}


def _last(rows: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The last `count` rows; there are as many next_obs as rows have their own."""
    kept = {name: array[len(array) - count :] for name, array in rows.items() if name != "next_obs"}
    own = count if "own" not in kept else np.count_nonzero(kept["own"])
    return kept | {"next_obs": rows["next_obs"][len(rows["next_obs"]) - own :]}


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two arrays `(..., F)` have equal bits, `(...)`: a NaN is the same as itself."""
    same: np.ndarray = (one.view(np.uint8) == other.view(np.uint8)).all(axis=-1)
    return same
