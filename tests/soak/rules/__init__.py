"""The guarantees that the checker applies, one function each. Pure."""
