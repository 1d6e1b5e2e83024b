"""When queued jobs are expected to start and end: the devices, the order of the queue, durations, and a simulation."""
