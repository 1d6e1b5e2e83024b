"""The live page, its data, its WebSocket and its sign-in."""
