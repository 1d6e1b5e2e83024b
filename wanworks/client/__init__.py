"""The client library. It needs only httpx and pydantic, and uses only the server's HTTP API."""
