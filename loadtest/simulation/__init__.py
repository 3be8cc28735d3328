"""The scaling law, and others, on recorded traffic: replicas, queues and cards are simulated."""
