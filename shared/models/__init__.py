"""Model files on the nodes: which are present, complete and verified."""
