"""Does arithmetic on arrays and trees, and knows nothing of methods: selection, packing, exact shares, keys."""
