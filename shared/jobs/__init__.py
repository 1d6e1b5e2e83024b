"""Job rows, from acceptance to removal. Only this package writes the table of jobs. It never knows HTTP or Celery."""
