"""How well a served model answers: problems asked over HTTP, graded, and compared."""
