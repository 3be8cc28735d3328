"""The application on GPUs that are not there: what they hold, which to buy, how it scales."""
