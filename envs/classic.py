"""Gymnasium's classic control, stepped as arrays: thousands of environments at once.

What each environment does is what Gymnasium's single one does, with the same arithmetic in the same
order and precision, and from a random generator of its own, seeded in the same way: the same seeds
and actions lead to the same observations and endings, through every reset. Only the digit in which
Pendulum's reward is rounded to float32 may differ.

- CartPole: A. G. Barto, R. S. Sutton, C. W. Anderson, "Neuronlike Adaptive Elements That Can Solve
  Difficult Learning Control Problems" (1983).
- MountainCar: A. W. Moore, "Efficient Memory-Based Learning for Robot Control" (1990).
- Acrobot: R. S. Sutton, "Generalization in Reinforcement Learning: Successful Examples Using Sparse
  Coarse Coding" (1996).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from envs.seeds import Seeds, spread


class ClassicVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N environments of one task; each begins anew in the step that ends its episode.

    `info["final_obs"]` then holds the true successors `(N, size)` of all of them, and
    `info["_final_obs"]` says where they differ from the observations; `info["final_info"]` is
    empty, as these tasks' always is. A task says how an episode begins, what a step does, and what
    is seen.

    Raises ValueError for fewer than one environment.
    """

    id: ClassVar[str]
    """What Gymnasium knows the task by."""
    span: ClassVar[tuple[Any, Any]]
    """An episode begins between these, which are numbers or one for each that is drawn."""
    draws: ClassVar[int | None] = None
    """How many numbers that is; None for a single one."""
    worth_from: ClassVar[int]
    """From so many environments on it was measured faster than Gymnasium's in a loop; CartPole has
    none, for Gymnasium's own arrays come before."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    copy = True
    """Arrays given out are never written to again."""

    def __init__(self, num_envs: int) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: use 1 or more")
        self.spec = gymnasium.spec(self.id)
        self.task: Any = gymnasium.make(self.spec, disable_env_checker=True).unwrapped
        """One of Gymnasium's, for its constants."""
        self.num_envs = num_envs
        self.single_observation_space = self.task.observation_space
        self.single_action_space = self.task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.limit = self.spec.max_episode_steps or np.iinfo(np.int64).max
        self.generators: dict[int, np.random.Generator] = {}
        """One for each environment."""
        self.steps = np.zeros(num_envs, np.int64)
        """Since the episode began."""
        self.state = np.zeros((0, num_envs))
        """What an environment is in, a column each."""

    # What a task gives ---------------------------------------------------------------------------

    def begin(self, drawn: np.ndarray) -> np.ndarray:
        """States `(S, M)` from what was drawn, `(draws, M)`, in Gymnasium's precision."""
        return drawn

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moves `state`. Returns rewards and where the task ended, `(N,)`."""
        raise NotImplementedError

    def see(self, state: np.ndarray) -> np.ndarray:
        """Observations `(M, size)` of states `(S, M)`, float32."""
        return state.T.astype(np.float32, order="C")

    # Gymnasium's vector API ----------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: Seeds = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin everywhere; environment i from `seed + i`, or from the i-th of several seeds."""
        if options:
            raise ValueError(f"options is {options}: {type(self).__name__}.reset has none")
        for i, its in enumerate(spread(seed, self.num_envs)):
            if its is not None or i not in self.generators:
                self.generators[i] = seeding.np_random(its)[0]
        states = self._begun(np.arange(self.num_envs))
        self.state, self.steps = states.astype(np.float64), np.zeros(self.num_envs, np.int64)
        return self.see(states), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act everywhere, with actions of the action space."""
        reward, terminated = self.advance(np.asarray(actions))
        self.steps += 1
        truncated = self.steps >= self.limit
        obs, done = self.see(self.state), terminated | truncated
        info: dict[str, Any] = {}
        if done.any():
            info = {"final_obs": obs, "_final_obs": done, "final_info": {}, "_final_info": done}
            ended = np.flatnonzero(done)
            states = self._begun(ended)
            self.state[:, ended], self.steps[ended] = states, 0
            obs = obs.copy()
            obs[ended] = self.see(states)
        return obs, reward, terminated, truncated, info

    def _begun(self, where: np.ndarray) -> np.ndarray:
        low, high = self.span
        size = self.draws if self.draws is None else (self.draws,)
        drawn = [self.generators[i].uniform(low, high, size) for i in where.tolist()]
        return self.begin(np.array(drawn).reshape(len(where), -1).T)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest depends on."""
        return {
            "state": self.state.copy(),
            "steps": self.steps.copy(),
            "generators": [g.bit_generator.state for g in self.generators.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.state, self.steps = np.array(state["state"]), np.array(state["steps"])
        for i, its in enumerate(state["generators"]):
            self.generators[i] = np.random.Generator(np.random.PCG64(0))
            self.generators[i].bit_generator.state = its


class CartPole(ClassicVectorEnv):
    """A pole on a cart that is pushed to the left or to the right; 1 for every step."""

    id = "CartPole-v1"
    span = (-0.05, 0.05)
    draws = 4

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = self.task
        x, x_dot, theta, theta_dot = self.state
        force = np.where(action == 1, p.force_mag, -p.force_mag)
        cos, sin = np.cos(theta), np.sin(theta)
        temp = (force + p.polemass_length * np.square(theta_dot) * sin) / p.total_mass
        theta_acc = (p.gravity * sin - cos * temp) / (
            p.length * (4.0 / 3.0 - p.masspole * np.square(cos) / p.total_mass)
        )
        x_acc = temp - p.polemass_length * theta_acc * cos / p.total_mass
        state = np.empty_like(self.state)
        state[0] = x + p.tau * x_dot
        state[1] = x_dot + p.tau * x_acc
        state[2] = theta + p.tau * theta_dot
        state[3] = theta_dot + p.tau * theta_acc
        self.state = state
        terminated = np.abs(state[0]) > p.x_threshold
        terminated |= np.abs(state[2]) > p.theta_threshold_radians
        return np.ones(self.num_envs), terminated


class MountainCar(ClassicVectorEnv):
    """A car too weak for the hill that it is to climb; -1 for every step."""

    id = "MountainCar-v0"
    worth_from = 2
    span = (-0.6, -0.4)

    def begin(self, drawn: np.ndarray) -> np.ndarray:
        return np.concatenate([drawn, np.zeros_like(drawn)])

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = self.task
        position, velocity = self.state
        velocity = velocity + ((action - 1) * p.force + np.cos(3 * position) * (-p.gravity))
        velocity = np.clip(velocity, -p.max_speed, p.max_speed)
        position = np.clip(position + velocity, p.min_position, p.max_position)
        velocity[(position == p.min_position) & (velocity < 0)] = 0
        self.state = np.stack([position, velocity])
        terminated = (position >= p.goal_position) & (velocity >= p.goal_velocity)
        return np.full(self.num_envs, -1.0), terminated


class MountainCarContinuous(ClassicVectorEnv):
    """The same car with a throttle; 100 for arriving, less 0.1 a² for every step.

    Gymnasium keeps its state in float32, but for the position that an episode begins with.
    """

    id = "MountainCarContinuous-v0"
    worth_from = 10
    span = (-0.6, -0.4)

    def begin(self, drawn: np.ndarray) -> np.ndarray:
        return np.concatenate([drawn, np.zeros_like(drawn)])

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, f32 = self.task, np.float32
        action = action[:, 0].astype(f32)
        begins = self.steps == 0
        angle = 3 * self.state[0].astype(f32)
        angle = np.where(begins, 3 * self.state[0], angle)
        force, pull = np.clip(action, p.min_action, p.max_action), 0.0025 * np.cos(angle)
        # A force that was cut off is a number of Python's, and what it is added to is not rounded.
        cut_off = force.astype(np.float64) * p.power - pull
        gain = np.where(force == action, force * f32(p.power) - pull.astype(f32), cut_off)
        velocity = np.where(begins, gain, self.state[1].astype(f32) + gain.astype(f32))
        velocity = np.clip(velocity, -f32(p.max_speed), f32(p.max_speed))
        # Rounded from float64, a sum of two float32 numbers is what float32 makes of them.
        position = (self.state[0] + velocity).astype(f32)
        position = np.clip(position, f32(p.min_position), f32(p.max_position))
        velocity[(position == f32(p.min_position)) & (velocity < 0)] = 0
        self.state = np.stack([position, velocity.astype(f32)]).astype(np.float64)
        terminated = (position >= f32(p.goal_position)) & (velocity >= p.goal_velocity)
        reward = np.where(terminated, 100.0, 0.0) - np.square(action.astype(np.float64)) * 0.1
        return reward, terminated


class Pendulum(ClassicVectorEnv):
    """A pendulum to be swung up and held; it costs angle, speed and torque, and never ends."""

    id = "Pendulum-v1"
    worth_from = 2
    span = (np.array([-np.pi, -1.0]), np.array([np.pi, 1.0]))
    draws = 2

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = self.task
        theta, speed = self.state
        torque = np.clip(action[:, 0].astype(np.float32), -p.max_torque, p.max_torque)
        angle = ((theta + np.pi) % (2 * np.pi)) - np.pi
        cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
        pull = 3 * p.g / (2 * p.l) * np.sin(theta)
        speed = speed + (pull + 3.0 / (p.m * p.l**2) * torque) * p.dt
        speed = np.clip(speed, -p.max_speed, p.max_speed)
        self.state = np.stack([theta + speed * p.dt, speed])
        return -cost, np.zeros(self.num_envs, bool)

    def see(self, state: np.ndarray) -> np.ndarray:
        theta, speed = state
        return np.stack([np.cos(theta), np.sin(theta), speed], axis=1).astype(np.float32)


class Acrobot(ClassicVectorEnv):
    """Two links, driven at the joint between them, to swing up; -1 for all steps but the last.

    It is chaotic: a difference in the last digit of a float64 shows in a float32 some hundred
    steps later. Hence `float_power`, which squares as Gymnasium's numbers do, with C's pow.
    """

    id = "Acrobot-v1"
    worth_from = 6
    span = (-0.1, 0.1)
    draws = 4

    def begin(self, drawn: np.ndarray) -> np.ndarray:
        return drawn.astype(np.float32)

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, y, dt = self.task, self.state, self.task.dt
        torque = np.asarray(p.AVAIL_TORQUE)[action]
        k1 = self._slope(y, torque)  # Runge and Kutta's fourth order
        k2 = self._slope(y + dt / 2.0 * k1, torque)
        k3 = self._slope(y + dt / 2.0 * k2, torque)
        k4 = self._slope(y + dt * k3, torque)
        y = y + dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles = y[:2]
        while (beyond := angles > np.pi).any():
            angles[beyond] -= 2 * np.pi
        while (beyond := angles < -np.pi).any():
            angles[beyond] += 2 * np.pi
        y[2] = np.clip(y[2], -p.MAX_VEL_1, p.MAX_VEL_1)
        y[3] = np.clip(y[3], -p.MAX_VEL_2, p.MAX_VEL_2)
        self.state = y
        terminated = -np.cos(y[0]) - np.cos(y[1] + y[0]) > 1.0
        return np.where(terminated, 0.0, -1.0), terminated

    def _slope(self, y: np.ndarray, torque: np.ndarray) -> np.ndarray:
        """dy/dt `(4, N)`, by the equations of Sutton and Barto's book."""
        p, g = self.task, 9.8
        m1, m2, l1 = p.LINK_MASS_1, p.LINK_MASS_2, p.LINK_LENGTH_1
        c1, c2, moment = p.LINK_COM_POS_1, p.LINK_COM_POS_2, p.LINK_MOI
        theta1, theta2, speed1, speed2 = y
        cos2, sin2 = np.cos(theta2), np.sin(theta2)
        d1 = m1 * c1**2 + m2 * (l1**2 + c2**2 + 2 * l1 * c2 * cos2) + moment + moment
        d2 = m2 * (c2**2 + l1 * c2 * cos2) + moment
        phi2 = m2 * c2 * g * np.cos(theta1 + theta2 - np.pi / 2.0)
        phi1 = (
            -m2 * l1 * c2 * np.float_power(speed2, 2) * sin2
            - 2 * m2 * l1 * c2 * speed2 * speed1 * sin2
            + (m1 * c1 + m2 * l1) * g * np.cos(theta1 - np.pi / 2)
            + phi2
        )
        pull = m2 * l1 * c2 * np.float_power(speed1, 2) * sin2
        acceleration2 = (torque + d2 / d1 * phi1 - pull - phi2) / (
            m2 * c2**2 + moment - np.float_power(d2, 2) / d1
        )
        acceleration1 = -(d2 * acceleration2 + phi1) / d1
        return np.stack([speed1, speed2, acceleration1, acceleration2])

    def see(self, state: np.ndarray) -> np.ndarray:
        theta1, theta2, speed1, speed2 = state
        columns = [np.cos(theta1), np.sin(theta1), np.cos(theta2), np.sin(theta2), speed1, speed2]
        return np.stack(columns, axis=1).astype(np.float32)


TASKS: dict[str, type[ClassicVectorEnv]] = {
    task.id: task for task in (CartPole, MountainCar, MountainCarContinuous, Pendulum, Acrobot)
}
