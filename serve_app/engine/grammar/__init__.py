"""JSON, regular expressions and grammars that clients ask for.

- `structure.py`: what binds an answer, in the one form that is checked and that the engine compiles
- `sandbox.py`, `worker.py`, `compiler.py`: another process compiles it first, within limits
- `checked_start.py`: a reply begins when its grammar is checked, so that a refusal is a status
- `open_tail.py`, `closing.py`: JSON that its limit cuts goes back and is closed
"""
