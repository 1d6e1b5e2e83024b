"""What can be requested: models, job types and their parameters. It does not know what is stored or running."""
