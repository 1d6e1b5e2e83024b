"""The processes of a worker: main processes, children, and loops. They never know how a job is done."""
