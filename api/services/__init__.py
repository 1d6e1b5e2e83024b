"""Services that are created once per process and shared by handlers through `Context`. Must not know routes."""
