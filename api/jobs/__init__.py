"""The routes under `/api/v1/jobs` and `/api/v1/webhooks`."""
