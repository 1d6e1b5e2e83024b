"""What decides when: the dispatcher and its placement, the beat table and its ticks."""
