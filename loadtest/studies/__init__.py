"""What rewrites tables of our own docs: nothing that an operator needs.

- `overhead/`: what serving adds to baseline vLLM
- `replay_scaling/`: the scaling policy on real Ray, beside the simulation
- `micro_r1/`, `micro_r2/`: the training of the embedded reasoning models
- `continuity/`: streams of `/v1` whose replica is killed or replaced
- `cold_start`, `faults`, `first_run`: starts, killed parts, a newcomer's first hour
- `engine_start`: an engine's start against that of another checkout
- `key_overhead`, `fairness`, `tab_cost`: what a key costs, another key's flood, and open tabs
- `deadlines`: right answers in time with `deadline_ms`, beside fixed thinking budgets
- `gate_promise`: first tokens in time and honest Retry-After on a server in overload
- `gateway_speed`, `gateway_memory`: what one process of `/v1` forwards, and takes of memory
"""
