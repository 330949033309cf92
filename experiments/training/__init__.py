"""From a config to results: what is trained, how, on which devices, and what it leaves behind."""
