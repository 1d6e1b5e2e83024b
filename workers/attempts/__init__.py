"""One attempt at a job: claim, heartbeat, end. It must not depend on job types."""
