"""Flow matching: the interpolant, the solvers that run it backwards, and their noise."""
