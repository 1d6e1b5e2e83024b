"""Routes under `/v1`: the video convention of the openai client, over the same jobs."""
