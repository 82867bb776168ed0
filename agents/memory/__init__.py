"""Where experience waits. A memory decides when there is something to learn from.

`add(transition)` takes one step of N environments, `batches()` yields a batch for each update
that is due. That, not a class hierarchy, is what tells on-policy from off-policy learning.
"""

from agents.memory.hindsight import Hindsight
from agents.memory.replay import NoStacks, Replay
from agents.memory.rollout import Rollout
from agents.memory.samples import Rows, Sequences, samples
from agents.memory.stream import Stream

__all__ = ["Hindsight", "NoStacks", "Replay", "Rollout", "Rows", "Sequences", "Stream", "samples"]
