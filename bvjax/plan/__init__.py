"""What a configuration costs on a machine that is not here: the real programs, compiled ahead of time."""
