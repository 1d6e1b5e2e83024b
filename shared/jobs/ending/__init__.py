"""What every end of a job writes: its use, its message, and what its flow and its batch learn of it."""
