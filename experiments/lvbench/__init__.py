"""LV-Bench on real footage and on videos with known defects."""
