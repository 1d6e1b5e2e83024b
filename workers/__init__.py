"""The workers: they run jobs. The runner, one handler per job type, the pipelines of a device, and device discovery."""
