"""`tierserve doctor`: what a cluster or machine can run, and why not more. Imports no Ray."""
