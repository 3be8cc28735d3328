"""The application on simulated GPUs: what load they sustain, which to buy, how policies scale them.

The decisions are production's own (`Gate`, `DemandMeter`, `serve_app/core`); engines, starts,
clients and the load balancer are simulated. In reading order:

What is simulated
    profile.py              a GPU's figures: step times, KV cache, start, price
    profile_range.py        the same at either end of their uncertainty
    trace.py                recorded requests
    synthetic.py            made-up ones
    traffic.py              traffic whose load can be set
    arrivals.py             the requests of a run: a trace, several of it, a day of it
    setup.py                the cluster, and a tier's replica on each GPU type
    cell.py                 a part of a large fleet that stands for the whole
The simulation
    sim_request.py          a request on its way
    engine.py               continuous batching with a KV pool
    replica.py              production's gate in front of an engine
    tier_state.py           a tier's replicas, and HAProxy's choice among them
    fleet.py                all tiers: arrivals, forwarding, lending, starts, drains
    recorder.py             what is counted on the way
    outcome.py              what a run has found
    run.py                  one run with a scaling policy
    initial.py              how many replicas it begins with
Scaling policies
    ours.py                 the server's own
    policies.py             Ray Serve's default
    kubernetes_policies.py  KEDA's, llm-d's, AIBrix's
    constant.py             no scaling, at the best count
    clairvoyant.py          the cheapest plan in hindsight
`simulate` and `bench-scaling`: policies against each other
    command.py              `simulate`: one policy on one trace
    contest.py              each policy at its best setting in hindsight
    settings_search.py      the search for that setting
    opponents.py            the settings that are searched
    figures.py              what a policy is judged by
    kept_runs.py            runs that are not repeated
    cases.py                the benchmark's own traces
    trace_folder.py         your traces in their place
    bench_scaling.py        `bench-scaling`: all policies on all cases
    scoreboard.py           its table and its summary
    timeline_plot.py        the picture of a run
`capacity` and `plan`: no scaling
    static_set.py           a set of GPUs that all serve, and its bound by arithmetic
    sustained_load.py       the maximum load that it sustains
    capacity.py             `capacity`
    set_search.py           the cheapest set that sustains a load
    plan.py                 `plan`
    plan_table.py           what it prints
What the commands share
    options.py              their options
    option_types.py         what the values mean
    inputs.py               from options to a setup, traffic and profiles
    answers.py              the JSON that they write
    formatting.py           figures on a terminal
"""
