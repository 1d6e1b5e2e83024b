"""The routes under `/v1`: the `openai` client's video format, over the same jobs."""
