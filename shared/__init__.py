"""What every process stands on: settings, states, catalogue, tables and the one writer of each.

Nothing here imports `api`, `workers`, `scheduler` or `cli`, and nothing here imports torch.
"""
