"""Jobs on model files: downloads, integrity checks, repairs, cleanups, and the inventory of the cache."""
