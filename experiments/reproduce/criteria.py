"""The pruning criteria of the study, by the names that it gives them."""

DROPS = {"magnitude": "magnitude", "SET": "set", "MEST": "mest", "SNIP": "snip", "RSensitivity": "rsensitivity"}
