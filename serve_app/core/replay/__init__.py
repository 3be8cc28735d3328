"""What a generation needs to go on at another replica as if nothing had happened."""
