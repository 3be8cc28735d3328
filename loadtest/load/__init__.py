"""Load tests of OpenAI servers: arrivals, streams, what was measured, and reports."""
