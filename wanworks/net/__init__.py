"""Addresses and the proxies that the environment names. The server uses it as the client does; it knows neither."""
