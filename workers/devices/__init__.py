"""The devices of this node and their readings. This package must not depend on jobs."""
