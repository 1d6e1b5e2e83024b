"""Generation jobs, from their parameters to the files. Only `pipelines` and `demo_models` may import torch."""
