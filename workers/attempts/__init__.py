"""One attempt at a job: claim, heartbeat, end. It never knows which type of job it runs."""
