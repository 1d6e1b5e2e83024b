"""Many jobs at once: batches, their archives, and actions on all jobs that match a filter."""
