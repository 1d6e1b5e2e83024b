"""What can be requested: the models, the job types and their parameters. It never knows what is stored or running."""
