"""The client library. It needs httpx and pydantic alone, and knows nothing of the server but its HTTP API."""
