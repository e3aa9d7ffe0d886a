"""Run folders: from a story to a video on disk, stopped and gone on with at any chunk.

pipeline.py       load a model, generate from Python; the command line goes through it
create.py         checks everything a run needs, makes its folder
execute.py        makes what a run lacks: latents, video, report; resuming is the same
redo.py           takes chunks out again, with other captions or another seed
decode.py         video.mp4 again from the latents on disk
run_dir.py        the folder, written so that nothing half done looks whole
place.py          where it can be: room on the disk, the lock
latent_files.py   a file and a hash per chunk
archive.py        what `redo` replaced
run_settings.py   config.json and story.json
stored_arrays.py  arrays and pictures of a run folder, read as a stranger's
captions.py       text states of a run's captions
prefix.py         chunks that a video gives
fit.py            whether weights are those of a run
finished.py       when a chunk counts as done
requests.py       what may be asked of a run
video.py          what Python gets: a video, or its chunks
report/           report.json and report.png

The way of a run: `pipeline` -> `create_run` -> `execute` -> `run_conditions`, `encode_given`,
`bvjax.generate.rollout.stream`, `RunReport`.
"""
