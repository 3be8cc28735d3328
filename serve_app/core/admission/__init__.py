"""Whether a request runs now, waits or is refused, and how long it will wait."""
