"""Previews of a generation while it denoises: a linear map from latents to colours, fitted to the model's own VAE."""
