"""Policies: in which order the chunks of a video are made, from which noise levels, and seeing what.

Every published way to make a long video with one denoiser is a *policy* here, so that ways can be compared over the
same weights.  A policy is a small file and a row of `POLICIES` (`table.py`); generation, evaluations, plans and checks
read that table.  Nothing in this package computes on a device: a policy says what to do, `bvjax.generate` does it.

A policy is two functions.

`configure(model)` sets the sections of the configuration that the policy stands for (which entries a bank keeps, how
windows overlap, which retrieval rule is asked), once, before what the user sets by hand.  A run folder holds the result.

`rounds(model, grid, captions)` lists the work as `Round`s (`schedule.py`).  A round is a *window* of places, each a
chunk, and a number of passes of the network over that window:

* **Noise levels.**  A place begins the round at step `start` of the sampler and takes one step in each pass.  A place
  with `start` below 0 waits in pure noise until it comes to 0; from `sampler.steps` on it is clean and is only looked
  at.  So a round of K passes is K columns of the level matrix (`level_matrix`): MAGI-1 has rounds of 16 passes with
  places at 48, 32, 16 and 0; PA-VDM six places five steps apart and one that is clean; Rolling Forcing a diagonal that
  moves by one; blockvid one place that goes from 0 to the end.
* **What a pass sees.**  Each place sees itself, the places that it names (`sees`: earlier ones only, or all), and
  entries of the bank: those that it names, or (`None`) those that the retrieval rule of the model brings.  `packed`
  are clean latents of anywhere in the video at a lower resolution, which all places see (FramePack).  Entries keep
  only the rows that BuildSparseKV kept, or all (`retrieval.dense_recent`).
* **Positions.**  `time` of a place and of an entry is the latent frame at which RoPE says that it begins; `None` leaves
  it to `rope.mode`.
* **Text.**  A place has the caption of a row of the story, or the null caption.
* **Writes.**  Before the passes `restart` empties the bank and `refresh` encodes entries again (LongLive, when the
  caption changes); after them `commits` encodes finished chunks, each under the caption that it names.  The label and
  the noise of the clean pass are `build.label` and `build.context_noise`.
* **Order.**  `emits` are the chunks that are finished with the round, in the order of emission; the video is put
  together in order of time (FramePack makes the last section first).

A round with one place that goes from step 0 to the last is a chunk by itself: it is made by the programs of
`generate/steps.py`, the whole solver in one.  All other rounds share one program for a number of places and passes
(`generate/windows.py`).  Rounds depend on sizes and on which captions are alike, never on latents, so that they are
known before a video begins: a run goes on where it stopped by going through its rounds again.

What cannot be said here: a choice that a layer makes by its own queries, pass by pass (MoC's routing of tokens), is no
context plan; it is a switch of the network's attention that a policy may turn on.
"""

from bvjax.policies.schedule import (
    NOT_BEGUN,
    NULL,
    Commit,
    Place,
    Round,
    context_plan,
    level_matrix,
)
from bvjax.policies.table import (
    POLICIES,
    Policy,
    check,
    check_cuts,
    check_layout,
    configure,
    emission_order,
    policy_of,
    rounds,
    without,
)

__all__ = [
    "NOT_BEGUN",
    "NULL",
    "POLICIES",
    "Commit",
    "Place",
    "Policy",
    "Round",
    "check",
    "check_cuts",
    "check_layout",
    "configure",
    "context_plan",
    "emission_order",
    "level_matrix",
    "policy_of",
    "rounds",
    "without",
]
