"""What the process makes once and every handler shares through `Context`. It never knows routes."""
