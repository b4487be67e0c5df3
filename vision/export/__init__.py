"""Export a head and the network in front of it as one model that needs no code of this project."""
