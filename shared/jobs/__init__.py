"""Job rows, from acceptance to removal. Only this package writes their table. It knows neither HTTP nor Celery."""
