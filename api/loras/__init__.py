"""The library of LoRAs: list, upload, fetch, share and remove."""
