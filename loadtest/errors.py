"""What ends a command with a message and no traceback; `loadtest.__main__` prints it."""

# The exit status of what Ctrl-C ended.
INTERRUPTED = 130


class UserError(Exception):
    """The user's to fix: exit status 2."""


class MeasurementError(Exception):
    """Nothing could be measured, or no more: exit status 1."""
