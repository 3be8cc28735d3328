"""The HTTP client: one reader of streams, with the time of each token, and what servers report."""
