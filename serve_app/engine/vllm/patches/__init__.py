"""Patches of vLLM, one a file; `registry.py` lists them, `patch.py` says what one is.

In every process of vLLM's:
- `r1_parser.py`: where R1's reasoning ends, and how many tokens it has
- `thinking_budget.py`: a budget ends with the reasoning also where the model ends it itself (V1)
- `single_reasoning.py`: a reasoning has one budget, which ends with it (model runner V2)
- `stop_strings.py`, `stop_token_ids.py`: a client's stops count in the answer only
- `repetition_interval.py`: a repetition is looked for at every sixteenth token
- `grammar_budget.py`, `grammar_compilers.py`: one request's grammar takes no one else's time
- `seeded_prefill.py`: a seed with a prompt that is read in parts, on the CPU
- `plain_ranks.py`: log probabilities without a kernel that is compiled meanwhile, on the CPU
- `compiled_graph.py`: a compiled graph that was kept is loaded, on the CPU

In the API process:
- `grammar_validation.py`: grammars are compiled in the sandbox, not on the event loop
- `long_prompts.py`: a prompt that is too long is refused by its begin
- `output_yield.py`: others get a turn between the outputs of two steps
- `assistant_prefill.py`: Anthropic's last message of the assistant begins the answer

`../fast_path.py` holds three more, which only make vLLM's application faster, and
`../early_engine.py` one, by which the engine's process is one that was started before.
"""
