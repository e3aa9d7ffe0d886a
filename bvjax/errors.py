"""Two exception types: for everything a user can get wrong, and for work that fails all the same.

The command line turns a `UserError` into its one sentence and exit code 2, a `WorkError` into its one sentence and
exit code 1; library callers can catch them as `ValueError` and `RuntimeError`.

A message that tells of a parameter has its Python name in backquotes, "`video_chunks` is 9; ...", which the
command line replaces by its option (`console.as_options`): --video-chunks.
"""


class UserError(ValueError):
    """Bad input: the message is one sentence that names the thing and the legal values."""


class WorkError(RuntimeError):
    """Work on good input that failed: the message is one sentence that names what failed and what to do."""
