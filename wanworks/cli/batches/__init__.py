"""Batches on the command line: the batch file, its submission and record, and commands for batches."""
