"""Trainers with a vocabulary of their own: each module has their keys as rows, their defaults, and what is no row.

A module has ROWS (key → Option), NAMES, recognises(content), read(content) → Foreign, and RULES, which are applied in
order. A row without a key says why it is not supported; `neutral` ones cannot change the result.
"""
