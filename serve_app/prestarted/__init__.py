"""A Python that is started, and imports, before `multiprocessing` wants it."""
