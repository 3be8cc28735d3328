"""What streams of `/v1` are worth when the replica that makes them is killed, or taken away."""
