"""One cluster whose Ray runs without HAProxy, for all tests here."""
