"""One exception type for everything a user can get wrong.

The command line turns a `UserError` into its one sentence and exit code 2; library callers can catch it as a `ValueError`.
"""


class UserError(ValueError):
    """Bad input: the message is one sentence that names the thing and the legal values."""
