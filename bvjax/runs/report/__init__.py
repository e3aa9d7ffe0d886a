"""The report of a run: report.json and report.png.

run_report.py      gathers it chunk by chunk and writes both files
drift_report.py    what changed along the video, as numbers
report_picture.py  the same as a picture
drawn_text.py      titles in fonts that have their characters
"""
