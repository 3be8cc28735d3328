"""`tierserve doctor`: what a cluster or machine can run, and why not more.

Imports no Ray; a contract of import-linter checks it.

    page <- report <- cluster_view, configured_deployments, findings <- core.placement

- `page`: the report for people
- `report`: looks at the cluster, the running service or the machine, and puts the rest together
- `cluster_view`: nodes, GPUs and deployments, from Ray's dashboard or from this machine
- `configured_deployments`: what a Serve config requests, and its limits on each type of GPU
- `findings`: what stands in the way on this machine, and in a service that runs
"""
