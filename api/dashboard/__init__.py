"""The live page, its data, its WebSocket and sign-in."""
