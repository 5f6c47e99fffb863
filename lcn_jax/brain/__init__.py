"""How well the layers of a network explain recorded neurons, measured as Brain-Score does."""
