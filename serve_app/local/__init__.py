"""`tierserve serve`: a Ray cluster of its own on this machine.

Imports no Ray; a contract of import-linter checks it.

    launcher -> cluster -> supervisor -> `ray start` -> Serve, HAProxy, replicas

- `launcher`: checks, start, log lines, stop
- `profiles`: which Serve config file fits the GPUs
- `cluster`: one Ray head with Serve, and everything needed to end it; the tests use it too
- `ray_head`: ports, environment and command line of that head
- `supervisor`: a process that ends everything that came of its command
- `ports`: free TCP ports, and who holds one
- `serve_api`: Ray Serve's REST interface
- `progress`, `ready_notice`, `worker_logs`: what the terminal shows while it starts, when it is
  ready, and from then on
- `services`: the services that run on this machine, for `tierserve doctor`
"""
