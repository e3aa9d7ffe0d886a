"""Costs of a configuration on a machine that is not here: the real programs, compiled ahead of time."""
