"""The recipe: what can be set, how a file becomes one, and grids of several."""
