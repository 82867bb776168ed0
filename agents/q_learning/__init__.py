"""Agents that learn the value of the greedy policy from any experience."""
