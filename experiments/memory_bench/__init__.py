"""The memory benchmark: does a video still know who comes back, and to where, after a gap?

cases.py     the stories, what is asked of each, and the manifest that goes with them
axes.py      what is varied: the stories, the wording, the memory's settings
judging.py   from frames to what the judge sees of a case
given.py     mode "given": the true past in the bank, only the return chunk generated
whole.py     mode "self": whole videos, in run folders
running.py   the work of a run, what it costs, and how it stops and goes on
videos.py    videos that were made elsewhere
scores.py    records to rates with intervals
report.py    tables and plots

`python -m experiments.memory_bench --help` (docs/memory_bench.md).
"""
