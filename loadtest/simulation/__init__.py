"""The application on GPUs that are not there: what load they sustain, which to buy, how it
scales."""
