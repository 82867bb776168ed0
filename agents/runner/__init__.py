"""What runs an agent: the loop, its callbacks, and what they leave in a run's folder."""
