"""Middleware: request ids, security headers, timing, origin checks, traces, the public path."""
