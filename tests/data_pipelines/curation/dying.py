"""Work that kills its worker, in a module that is quick to import."""

from __future__ import annotations

import os
import signal

from bvjax.files import DISK_FULL


def work_or_die(piece):
    if piece == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == "raise":
        raise ValueError("odd")
    if piece == "full":
        raise OSError(DISK_FULL[0], "No space left on device")
    return piece.upper()
