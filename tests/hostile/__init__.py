"""Attacks on a running service, with nothing but its public port: `make test-hostile`."""
