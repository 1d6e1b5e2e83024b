"""Alert rules, the facts that they evaluate, and the loop that runs them."""
