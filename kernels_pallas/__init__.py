"""Kernels: arrays in, arrays out; this package imports jax only.

Every function takes an `implementation` name and has a plain-XLA twin, which is both the oracle of
the tests and the fallback on machines without the accelerator.
"""
