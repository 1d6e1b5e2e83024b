"""Everything that passes through Redis: Celery messages, progress, schedules. Nothing in Redis decides about a job."""
