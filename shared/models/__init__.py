"""Model files on the nodes: which are there, whole and verified. It never knows which jobs use them."""
