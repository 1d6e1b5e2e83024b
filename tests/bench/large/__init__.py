"""Large installations: a million jobs, a hundred thousand queued, hundreds of devices and dashboards."""
