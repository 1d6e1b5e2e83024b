"""Speed tiers on a loaded model: entered for one job and left after it, without a change to the weights."""
