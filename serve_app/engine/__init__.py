"""What runs inside one replica."""
