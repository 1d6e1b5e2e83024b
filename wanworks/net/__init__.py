"""Addresses, URLs, and the environment's proxies. Used by server and client; must not depend on either."""
