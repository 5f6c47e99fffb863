"""How well the layers of a network explain neurons and behaviour, as Brain-Score measures it."""
