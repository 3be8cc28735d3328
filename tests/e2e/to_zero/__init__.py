"""One cluster whose tiers start without a replica."""
