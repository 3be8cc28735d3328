"""Every setting with its default, its bounds and its documentation, as pydantic models.

- `tier`: the roots: `TierArgs` (needs a new engine), `TierSettings` (changes live), `WebArgs`
- `engine`: what vLLM, or the fake engine, is started with
- `structure`: limits on JSON schemas, regular expressions and grammars
- `admission`: what the gate admits
- `scaling`: a tier's SLO, and how its replica count follows the load
- `answers`: reasoning, prompt, sampling, answer cache
- `cors`: origins of web pages
- `accelerator_costs`: what a token costs on a type of GPU, by a tier's settings
- `reference`: docs/configuration.md, from all of these
"""
