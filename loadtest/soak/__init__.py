"""Hours of mixed load with faults in turn, and what drifted meanwhile."""
