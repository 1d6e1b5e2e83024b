"""A local hub: serves a folder of models over the Hub's protocol to an unmodified huggingface_hub client."""
