"""Random faults under load, and a checker that compares the history with the guarantees: `make soak`."""
