"""Jobs on model files: downloads, integrity checks, repairs, cleanups, and what lies in the cache."""
