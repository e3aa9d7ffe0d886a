"""Training on one host: `loop.fit(task, data, ...)` drives any `task.Task`.

state       the pytree that a checkpoint holds
optimizer   AdamW, learning-rate schedules, which parameters decay
step        one jitted update: gradient accumulation, clipping, EMA
mesh        where arrays live: a batch over `data`, the state as the weights lie
checkpoint  Orbax checkpoints with the data iterator's state
metrics     tensorboardX event files and metrics.csv
signals     SIGTERM and SIGINT become a request to stop after the current step
loop        all of the above, in order
*_task      what is trained: the VAE, the text encoder, the DiT
"""
