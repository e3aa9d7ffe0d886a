"""From a story to a video: conditions, chunk-by-chunk rollout, a run folder, the mp4, a report.

conditions.py    captions -> text states and embeddings
steps.py         anchor and chunk: retrieve, denoise, build the bank entry (pure functions)
rollout.py       `rollout` (one scan over chunks), `stream` (driven from the host), `rebuild_bank`
host_bank.py     the bank of a `stream` in pinned host memory
decoding.py      latents -> frames as they come
run_dir.py       what is on disk, written so that nothing half done looks whole
pipeline.py      load a model, generate from Python
session.py       generate, resume, redo, decode and report over a run folder
video_io.py      mp4 and images
drift_report.py  what changed along the video, as numbers and (report_picture.py) as a picture
"""
