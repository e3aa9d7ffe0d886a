"""Quality of a trained model on held-out storyworld stories, by exact ground truth.

under_test.py      the weights that are measured, and the stories as they encode them
judge.py           a small network that names species, colour and place
                   (judge_data.py, judge_training.py, train_judge.py)
sightings.py       in which frames a subject or a place may be judged
cases.py           returns that only memory can draw right
reconstruction.py  what the VAE loses
captions.py        does the first chunk show what its caption says
memory.py          return chunks after a true history, by retrieval arm (memory_scores.py sums up)
minutes.py         whole self-generated minutes, by retrieval arm
drift.py           clarity and motion along those minutes, beside the rendered truth
results.py         what is on disk, so that a run can stop and go on (table.py prints it)
"""
