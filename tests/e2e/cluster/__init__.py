"""One cluster of four Ray nodes: a head without GPU, one with a T4, two with an RTX 4090."""
