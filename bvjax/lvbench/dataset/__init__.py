"""LV-Bench's form: a folder of long videos with captions that cover them second by second.

examine.py  the form; reading a folder, `validate`
files.py    which files are videos, which say what they show
checks.py   what can be wrong with one video
split.py    the random 8:2 split
"""
