"""Several processes that work as one: how they find each other, what they tell each other, how they end.

`cluster` reads from the environment who takes part, `start` begins and ends the connection, `exchange` hands values
from process to process, `watchdog` ends a process that hangs.
"""
