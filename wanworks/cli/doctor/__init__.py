"""`wanworks doctor`: check what this host needs to run jobs, and name a remedy for each problem."""
