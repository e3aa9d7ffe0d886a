"""Measurements of time and memory.  Printed, never asserted in a test."""
