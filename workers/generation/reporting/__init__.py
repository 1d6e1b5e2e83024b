"""What an attempt reports while it runs: percentages, remaining time, messages."""
