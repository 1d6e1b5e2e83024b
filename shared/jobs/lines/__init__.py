"""The lines in which queued jobs wait: their names, the first job of each, and jobs that may not start yet."""
