"""What serving adds to a bare vLLM server: several servers measured in one alternating run."""
