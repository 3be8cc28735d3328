"""What a schema may ask for, and where unfinished JSON can be cut."""
