"""Who calls, and what they may do. It never knows what is called."""
