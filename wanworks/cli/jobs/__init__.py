"""The commands for jobs: submit, list and show, follow and fetch, steer, and act on many at once."""
