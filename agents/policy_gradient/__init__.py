"""Agents that follow the policy gradient of whole returns."""
