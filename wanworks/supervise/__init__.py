"""`wanworks up`: the processes of one host, started, watched and stopped. It never knows what they do."""
