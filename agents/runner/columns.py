"""The columns of a run's CSV files and what each means.

An empty cell says that there is nothing to tell: an agent without a critic has no value, a learner
without Adam no signal-to-noise, and a record of gradients is made only every `optim.stats_every`
updates. Every number of a row is a mean over the interval that ends with the row, unless its
meaning says otherwise. `updates.csv` has two kinds of columns more, named by the agent: its loss
terms, and its own metrics and scalars; those that several agents share are in `METRICS`.
"""

from __future__ import annotations

EPISODES = {
    "step": "environment steps of the whole run so far, in this row and in every file",
    "episode": "episodes that ended so far, this one included",
    "return": "undiscounted sum of the episode's rewards",
    "length": "its steps",
    "truncated": "1 where a time limit ended it, 0 where the task did",
    "seconds": "wall time since the run began",
}

UPDATES = {
    "step": "environment steps so far",
    "update": "accepted updates of the learner so far",
    "learner": "which learner; an agent has one or more",
    "loss": "sum of its loss terms",
    "grad_norm": "norm of its gradient before clipping",
    "grad_norm_max": "the largest of these in the interval",
    "clipped": "updates in the interval whose gradient was clipped",
    "grad_clip_fraction": "the same as a share of the interval's accepted updates",
    "skipped": "steps in the interval that were not finite and changed nothing",
    "lr": "learning rate of the last step",
    "cosine": "between a gradient and the one of the update before",
    "snr": "Adam's signal to noise, ‖m̂‖²/Σv̂; pure noise gives (1-β₁)/(1+β₁)",
    "td_error_mean": "|target - prediction| of the critic, mean over the batch and an ensemble's "
    "members; of distributions their expectations are compared",
    "td_error_p99": "the least |TD error| that 99 % of a batch do not exceed",
    "td_error_max": "the largest |TD error| of the interval's recorded batches",
    "value_max": "the largest |prediction| of the critic in the interval's recorded batches",
    "reward_max": "the largest |reward| of the run so far, as the agent learns from it",
    "value_bound": "reward_max / (1 - gamma), which no true value exceeds (entropy bonuses apart)",
    "target_distance": "‖w - w_target‖ / ‖w‖ at the end of the interval; 0 just after a copy",
    "entropy_ratio": "entropy of the policy as a share of the largest possible; discrete actions",
    "action_saturation": "share of the components of Box actions within 1 % of a bound, or beyond",
    "action_top": "share of the most frequent action; 1: always the same; discrete actions",
    "obs_std_min": "least standard deviation of an observation's dimensions, over the run so far",
    "obs_std_max": "the largest; both as the environment gives them, constant dimensions apart",
    "obs_constant": "share of the dimensions that have not changed in the run so far",
    "nonfinite": "where the last skipped step went wrong: loss term, layer, or gradient norm",
}

METRICS = {
    "policy_entropy": "of the policy, in nats",
    "kl": "from the policy that acted to that of an update's last epoch, seen before each of its "
    "steps, in nats; with one step an update it is therefore 0. TRPO's is of its whole step",
    "clip_fraction": "share of the probability ratios beyond the clip, seen as kl is",
    "explained_variance": "1 - Var(return - value) / Var(return), before the update",
    "epsilon": "probability of a random action",
    "q": "value of the actions in the batch",
    "q_spread": "standard deviation of it over the members of an ensemble",
}

GRADIENTS = {
    "step": "environment steps so far",
    "update": "accepted updates of the learner so far",
    "learner": "which learner",
    "layer": "which layer, in the order of the forward pass",
    "grad_norm": "norm of the layer's gradient before clipping",
    "clipped_grad_norm": "the same after clipping, as the optimiser was given it",
    "weight_norm": "norm of its weights before the step",
    "update_ratio": "‖Δw‖ / ‖w‖ of the step",
    "zero_fraction": "share of the gradient's entries that are exactly 0",
    "dormant": "share of its units with a mean |activation| of at most 0.025 of the layer's mean",
    "feature_norm": "norm of what the layer gives out for an observation, mean over the batch",
}

EVALUATIONS = {
    "step": "environment steps so far",
    "episodes": "episodes played greedily, on seeds of their own",
    "mean_return": "mean of their undiscounted returns",
    "std_return": "standard deviation over the episodes",
    "min_return": "the lowest",
    "max_return": "the highest",
    "mean_length": "mean of their steps",
    "discounted_return": "mean of their discounted returns, as the agent learns from rewards; an "
    "episode that was cut off goes on with the agent's estimate there",
    "value_estimate": "the agent's own estimate of that at their first observations, mean",
}
