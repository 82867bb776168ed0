"""The rules: a condition over what a run recorded, the evidence for it, and what to change.

Each module's public functions are conditions; `RULES` gives each its weight and its plain words.
Nothing here trains, draws or prints. Thresholds that the report shades too stand in `STATISTICS`.
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
    Rule(inputs.non_finite, 1.0, "Something is not finite"),
    Rule(values.target_never_moves, 0.97, "The target network is never updated"),
    Rule(inputs.no_reward, 0.96, "There is no reward"),
    Rule(inputs.observations, 0.95, "Observations are not normalised"),
    Rule(inputs.constant_observations, 0.94, "Observations are constant"),
    Rule(inputs.reward_scale, 0.93, "Rewards are of an unsuitable scale"),
    Rule(inputs.truncation, 0.92, "Time limits are treated as endings"),
    Rule(values.support, 0.91, "Returns lie beyond the histogram of values"),
    Rule(steps.lr_too_high, 0.9, "The learning rate is far too high"),
    Rule(steps.lr_too_low, 0.9, "The learning rate is far too low"),
    Rule(experience.too_few_updates, 0.88, "Too few updates are made, or on stale data"),
    Rule(experience.replay_too_small, 0.87, "The replay is too small"),
    Rule(steps.vanishing, 0.86, "Gradients vanish on their way through the layers"),
    Rule(network.dead_units, 0.85, "Most units of a layer are dead"),
    Rule(network.plasticity, 0.84, "It loses its plasticity"),
    Rule(steps.exploding, 0.83, "Gradients explode"),
    Rule(values.overestimation, 0.82, "Values are over-estimated or diverge"),
    Rule(policy.too_many_epochs, 0.8, "Each round of updates goes too far"),
    Rule(values.critic_drowns_actor, 0.78, "The critic drowns the actor"),
    Rule(steps.clip_sets_step, 0.72, "The clip does the work of the learning rate"),
    Rule(policy.entropy_collapse, 0.68, "The policy's entropy has collapsed"),
    Rule(policy.constant_action, 0.66, "The actions are constant or saturated"),
    Rule(values.critic_not_fitting, 0.6, "The critic does not fit"),
    Rule(steps.noise, 0.5, "The updates are noise"),
    Rule(experience.forgotten, 0.45, "What was learned has been lost again"),
    Rule(
        experience.looks_healthy,
        0.3,
        "The optimisation looks healthy: look at reward, exploration or environment",
    ),
)
"""In the order of their weight: what causes others stands before what is caused."""
