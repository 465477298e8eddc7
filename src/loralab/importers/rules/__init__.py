"""How options of other trainers become settings of this one: rows of the catalogue, and functions that compute."""
