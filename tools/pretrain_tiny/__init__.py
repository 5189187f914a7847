"""How the embedded tiny model was made: architecture, lessons, and the training of both."""
