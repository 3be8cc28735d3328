"""Which replica has the begin of a prompt in its prefix cache, and which one runs the request."""
