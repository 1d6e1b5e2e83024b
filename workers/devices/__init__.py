"""The devices of this node, and what they read. They never know jobs."""
