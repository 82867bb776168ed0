"""MinAtar and Atari: found by their ids, set up as published, restored in the midst of an episode.

- `MinAtar/Breakout-v1`, Asterix, Freeway, Seaquest, SpaceInvaders: K. Young, T. Tian, "MinAtar: An
  Atari-Inspired Testbed" (2019), https://arxiv.org/abs/1903.03176. A tenth of the actions repeat
  the one before, and the difficulty ramps up. v1 takes the actions that matter, v0 all six.
- `ALE/Pong-v5` and the others: M. G. Bellemare et al., "The Arcade Learning Environment" (2013).
  As M. C. Machado et al., "Revisiting the Arcade Learning Environment" (2018) recommend: a quarter
  of the actions repeat the one before, an episode ends with the game, not with a life. Up to 30
  no-ops, every fourth frame, the brighter of its last two, grey, 84×84, four in a stack, after
  V. Mnih et al., "Human-level control through deep reinforcement learning" (2015). Rewards come as
  the game gives them: to learn from their signs is the agent's setting `clip_reward`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from envs.pooled import EnvPool, has

EXTRAS = {"MinAtar": ("minatar", "minatar"), "ALE": ("ale_py", "atari")}
"""By the namespace of an id: the package that brings it, and the extra that brings the package."""


def known(id: str) -> bool:
    """Whether `id` is of the arcade's. Its ids are then known to `gymnasium.make`.

    Raises ValueError that names the extra where the package that brings them is not installed.
    """
    if _namespace(id) not in EXTRAS:
        return False
    package, extra = EXTRAS[_namespace(id)]
    if not _installed(package):
        raise ValueError(
            f"{id} needs {package}, which is not installed: pip install 'chainrule[{extra}]'"
        )
    if package == "ale_py":  # registers its ids as it is imported
        ale_py = import_module(package)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner on stderr
    elif "MinAtar/Breakout-v1" not in gymnasium.registry:
        import_module("minatar.gym").register_envs()
    return True


def _installed(package: str) -> bool:
    """Whether it can be imported; a mere folder of that name, with no origin, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _namespace(id: str) -> str:
    return id.rpartition("/")[0]


def make(id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """One environment, as published. `id` is `known`."""
    if _namespace(id) == "MinAtar":
        return MinAtar(gymnasium.make(id, disable_env_checker=True, **options))
    # The screen is read by the preprocessing, from the emulator: the smallest form will do here.
    env = gymnasium.make(id, disable_env_checker=True, frameskip=1, obs_type="grayscale", **options)
    try:
        return Atari(FrameStackObservation(AtariPreprocessing(env), 4))
    except gymnasium.error.DependencyNotInstalled:
        raise ValueError(
            f"{id} needs cv2, which is not installed: pip install 'chainrule[atari]'"
        ) from None


class MinAtar(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """MinAtar with one generator, whose state can be saved, and with nothing left of an episode.

    As it comes, the first action of an episode may be the repetition of the last one's last.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.game: Any = env.get_wrapper_attr("game")
        self.game.env.random = self.game.random  # else two, until it is seeded

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self.game.last_action = 0
        return self.env.reset(seed=seed, options=options)

    def random_state(self) -> Any:
        """The state of the game's own generator."""
        return self.game.random.get_state(legacy=False)

    def restore_random_state(self, state: Any) -> None:
        """Put back what `random_state` gave."""
        self.game.random.set_state(state)


class Atari(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An Atari game whose emulator can be saved where an episode begins."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.ale: Any = env.get_wrapper_attr("ale")

    def random_state(self) -> Any:
        """The state of the emulator with that of its generator, 14 kB."""
        return np.frombuffer(self.ale.cloneState(include_rng=True).serialize(), np.uint8)

    def restore_random_state(self, state: Any) -> None:
        """Put back what `random_state` gave."""
        ale_py = import_module("ale_py")
        self.ale.restoreState(ale_py.ALEState(np.asarray(state, np.uint8).tobytes()))


def pooled(id: str, num_envs: int) -> EnvPool | None:
    """An Atari game in EnvPool's threads; None where EnvPool is not installed or lacks the game."""
    task = id.rpartition("/")[2]
    if _namespace(id) != "ALE" or not has(task):
        return None
    return EnvPool(task, num_envs, repeat_action_probability=0.25, use_fire_reset=False)
