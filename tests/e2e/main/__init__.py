"""One cluster as `make serve` starts it on a machine without a GPU, for all tests here."""
