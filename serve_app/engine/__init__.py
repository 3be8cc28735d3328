"""What runs inside one replica: the engine, and what sees to it that every request gets an answer.

- `interface.py`: what a replica needs of an engine; `vllm/` is the real one, `fake/` a double that
  steps as a GPU would
- `answer_guard.py`: stands where vLLM's handlers call the engine, and chooses how a request is run;
  `guarded_call.py` makes each call until it has an answer, `continuation.py` says why a generation
  goes on, `answer_text.py` keeps text and token ids in step
- `grammar/`: JSON, regular expressions and grammars of clients, compiled in a sandbox first
- `models/`, `templates/`: from a model's name to its directory and the chat template it is served
  with; `micro_r1/` and `micro_r2/` are models that lie in the package
"""
