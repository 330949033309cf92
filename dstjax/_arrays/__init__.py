"""Arithmetic on arrays and trees that knows nothing of methods: selection, packing, exact shares, keys."""
