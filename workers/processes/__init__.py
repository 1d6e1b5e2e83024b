"""The processes of a worker: main processes, children, and loops. They must not depend on how a job type is run."""
