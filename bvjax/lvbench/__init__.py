"""LV-Bench: how a long video changes along the way (paper section 4 and appendix A.4).

A video is cut into N equal segments S_1 .. S_N, which are called chunks 1 to N in all output.  A
metric gives each a score m_i; the Video Drift Error measures how far scores stray from m_1.

definitions   vde.py (Eq. 14-19), clarity.py (Eq. 20), motion.py (Eq. 21, 22; Lucas-Kanade)
metrics       metric.py (the interface), suites.py (all by name), paper/ (A.4.3), official/ (as published),
              nets/ and weights.py (the networks of the latter)
videos        video.py (frames block by block), batching.py (frames to the device), pictures.py
running       evaluation.py (a request to its files), runner.py, store.py (scores on disk)
results       results.py, results_check.py, change.py (which chunk moved), intervals.py, prompts.py
to look at    report/, formatting.py, table.py, csv_file.py, vbench_file.py, compare.py
data          dataset/ (a local copy of the videos and captions)
"""
