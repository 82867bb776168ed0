"""Agents that learn the value of the policy they follow, exploration included."""
