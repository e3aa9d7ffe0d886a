"""Training on one host: `loop.fit(task, data, ...)` drives any `task.Task`.

task         what the loop asks: a state of the task's own and a step that changes it
config       the section `train` of a config
loop         restore, step, log, sample, save, stop
plan         how long a run is, where its schedules end
checkpoint   Orbax checkpoints with the data iterator's state
metrics      tensorboardX event files and metrics.csv
signals      SIGTERM and SIGINT become a request to stop after the current step
mesh         where arrays live: a batch over `data`, the state as the weights lie
optimizer    AdamW or Muon, learning-rate schedules, which parameters decay
step         pieces of an update: gradient accumulation, norms, moving average
one_model    the task of one network with one loss; `state` is its state
*_objective  the networks with their losses: the VAE, the text encoder, the DiT
"""
