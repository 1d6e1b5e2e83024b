"""What must hold for a worker to claim a job: pauses, limits, devices of a gang."""
