"""What ended jobs have used: times, GPU-seconds, by day and by key."""
