"""Outbound connections: allowed addresses, proxies, signed webhooks. It knows neither settings nor jobs."""
