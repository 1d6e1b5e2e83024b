"""Connections that leave this host: allowed addresses, proxies, signed webhooks. It knows no settings and no jobs."""
