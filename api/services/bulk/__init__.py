"""Actions on many jobs: cancel, retry, delete, set a priority. Must not know HTTP."""
