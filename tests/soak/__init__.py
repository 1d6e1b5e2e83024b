"""Random faults under load, and a checker that holds what happened against the promises: `make soak`."""
