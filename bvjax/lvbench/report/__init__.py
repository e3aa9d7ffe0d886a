"""report.html: an evaluation as one file that any browser shows, offline.

page.py    the whole page (with assets/report/)
cards.py   a card per video: what moved when, a still of each chunk, curves, scores
tables.py  means over the videos, one row per video
"""
