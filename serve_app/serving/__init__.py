"""The runtime on Ray Serve: with `autoscaling` the only package that imports Ray.

    app -> replica -> engine_start -> running_tier -> the edge in `api`, the engine in `engine`
        -> web     -> the status of all replicas

- `app`: the composition root that Serve config files name
- `replica`: one replica of a tier, from start to end
- `engine_start`, `start_phases`: the engine that the settings name, and how long each step took
- `replica_placement`: the node and GPU that Ray gave the replica
- `running_tier`: engine, edge, live settings and reports of a started replica
- `lenders`, `tier_limits`, `cluster_secret`: what the tiers' replicas know of each other
- `web`, `replica_answers`, `topology`: what all replicas report, and where they are
- `shutdown`: when Serve has begun to stop this replica
- `scheduling_class`: which processes may preempt which
- `haproxy_wrapper`, `replica_port`, `serve_logs`: Ray's defaults hardened or repaired
- `policy`: the autoscaling policy under its name before 0.2
"""
