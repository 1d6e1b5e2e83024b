"""API keys, signatures and the audit log. It never knows HTTP."""
