"""The commands for API keys and the audit."""
