"""What ends an evaluation with a sentence for its user."""


class EvaluationFault(Exception):
    """The user's to mend: exit code 2, no traceback."""
