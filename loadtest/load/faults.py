"""What ends a load test with a sentence for its user."""


class LoadFault(Exception):
    """The user's to mend: exit code 2, no traceback."""
