"""What surrounds every request: ids, security headers, timing, origins, traces, the public path."""
