"""Alert rules, the facts that they judge, and the loop that does."""
