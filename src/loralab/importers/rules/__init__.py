"""How options of other trainers become settings of this one: one module an idea, each a function of (foreign, ours)."""
