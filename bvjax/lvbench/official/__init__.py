"""The metrics of the published evaluator, which are VBench's, with its networks.

preprocess.py   frames to what the networks take
consistency.py  consistency of features over frames; metrics of one vector a frame
subject.py, background.py, aesthetic.py, clarity.py, motion.py, dynamic.py: one metric each
"""
