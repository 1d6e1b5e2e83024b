"""What passes through Redis: Celery messages, progress and ticks. Nothing in Redis decides about a job."""
