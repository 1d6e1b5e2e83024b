"""Authentication, scopes and rate limits. Must not know which operation is called."""
