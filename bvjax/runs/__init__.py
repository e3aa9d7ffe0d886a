"""Run folders: from a story to a video on disk, stopped and gone on with at any chunk.

pipeline.py      load a model, generate from Python; the command line goes through it
session.py       generate, resume, redo, decode and report over a run folder
run_dir.py       what is on disk, written so that nothing half done looks whole
run_settings.py  config.json and story.json
stored_arrays.py arrays and pictures of a run folder, read as a stranger's
prefix.py        chunks that a video gives
finished.py      when a chunk counts as done
report/          report.json and report.png
"""
