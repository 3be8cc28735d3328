"""The application on cards that are not there: what they hold, which to buy, how it scales."""
