"""The routes under `/api/v1/models` and `/api/v1/wan-models`."""
