"""The rules: a condition over what a run recorded, the evidence for it, and what to change.

Each module's public functions are conditions; `RULES` gives each its name, its plain words and its
weight. Nothing here trains, draws or prints. Thresholds that the report shades too stand in
`STATISTICS`.
"""

from __future__ import annotations

from dataclasses import replace

from agents.doctor.finding import Advice, Evidence, Finding, Rule
from agents.doctor.history import History
from agents.doctor.rules import experience, inputs, network, policy, steps, values


def diagnose(history: History) -> list[Finding]:
    """What is wrong with a run, the weightiest first; nothing for a healthy one."""
    found = [
        Finding(rule, _advising(history, evidence))
        for rule in RULES
        if (evidence := rule.condition(history)) is not None
    ]
    if any(finding.rule.name != "looks_healthy" for finding in found):
        found = [finding for finding in found if finding.rule.name != "looks_healthy"]
    return sorted(found, key=lambda finding: -finding.weight)


def _advising(h: History, evidence: Evidence) -> Evidence:
    """The evidence with what its advice would change: not what the agent lacks, or has already."""
    advice = tuple(advice for advice in evidence.advice if advice.changes(h))
    none_left = Advice("the settings that help are set so already: look at what it is fed")
    return replace(evidence, advice=advice or (none_left,))


RULES = (
    Rule("non_finite", "Something is not finite", 1.0, inputs.non_finite),
    Rule(
        "target_never_moves", "The target network is never updated", 0.97, values.target_never_moves
    ),
    Rule("no_reward", "There is no reward", 0.96, inputs.no_reward),
    Rule("observations", "Observations are not normalised", 0.95, inputs.observations),
    Rule("constant_observations", "Observations are constant", 0.94, inputs.constant_observations),
    Rule("reward_scale", "Rewards are of an unsuitable scale", 0.93, inputs.reward_scale),
    Rule("truncation", "Time limits are treated as endings", 0.92, inputs.truncation),
    Rule("support", "Returns lie beyond the histogram of values", 0.91, values.support),
    Rule("lr_too_high", "The learning rate is far too high", 0.9, steps.lr_too_high),
    Rule("lr_too_low", "The learning rate is far too low", 0.9, steps.lr_too_low),
    Rule(
        "too_few_updates",
        "Too few updates are made, or on stale data",
        0.88,
        experience.too_few_updates,
    ),
    Rule("replay_too_small", "The replay is too small", 0.87, experience.replay_too_small),
    Rule("vanishing", "Gradients vanish on their way through the layers", 0.86, steps.vanishing),
    Rule("dead_units", "Most units of a layer are dead", 0.85, network.dead_units),
    Rule("plasticity", "It loses its plasticity", 0.84, network.plasticity),
    Rule("exploding", "Gradients explode", 0.83, steps.exploding),
    Rule("overestimation", "Values are over-estimated or diverge", 0.82, values.overestimation),
    Rule("too_many_epochs", "Each round of updates goes too far", 0.8, policy.too_many_epochs),
    Rule("critic_drowns_actor", "The critic drowns the actor", 0.78, values.critic_drowns_actor),
    Rule(
        "clip_sets_step", "The clip does the work of the learning rate", 0.72, steps.clip_sets_step
    ),
    Rule("entropy_collapse", "The policy's entropy has collapsed", 0.68, policy.entropy_collapse),
    Rule("constant_action", "The actions are constant or saturated", 0.66, policy.constant_action),
    Rule("critic_not_fitting", "The critic does not fit", 0.6, values.critic_not_fitting),
    Rule("noise", "The updates are noise", 0.5, steps.noise),
    Rule("forgotten", "What was learned has been lost again", 0.45, experience.forgotten),
    Rule(
        "looks_healthy",
        "The optimisation looks healthy: look at reward, exploration or environment",
        0.3,
        experience.looks_healthy,
    ),
)
"""In the order of their weight: what causes others stands before what is caused."""
