"""Run folders: from a story to a video on disk, stopped and gone on with at any chunk.

pipeline.py       load a model, generate from Python; the command line goes through it
create.py         checks everything a run needs, makes its folder
execute.py        makes what a run lacks: latents, video, report; resuming is the same
redo.py           takes chunks out again, with other captions or another seed; other captions for chunks to come
branch.py         a new run that shares the first chunks of another
decode.py         video.mp4 again from the latents on disk
run_dir.py        the folder, written so that nothing half done looks whole
place.py          its place: room on the disk, the lock
latent_files.py   a file and a hash per chunk
archive.py        what `redo` replaced
run_settings.py   config.json and story.json
stored_arrays.py  arrays and pictures of a run folder, read as a stranger's
captions.py       text states of a run's captions
prefix.py         video-to-video: the first chunks of a run, taken of a video
fit.py            checks that weights are those of a run
finished.py       checks of a chunk before it counts as done
requests.py       options of a run
preview_file.py   the chunk at work as a picture
video.py          what Python gets: a video, or its chunks
report/           report.json and report.png

Calls of a run: `pipeline` -> `create_run` -> `execute` -> `run_conditions`, `encode_prefix`,
`bvjax.generate.rollout.stream`, `RunReport`.
"""
