"""One cluster of four Ray nodes: a head without GPU, two with a T4, one with an RTX 4090."""
