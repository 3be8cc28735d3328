"""The only package that knows Ray: composition root, replicas, policy, local cluster."""
