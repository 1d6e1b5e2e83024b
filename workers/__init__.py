"""What runs a job: the runner, one handler per job type, the pipelines on a device, and the device itself."""
