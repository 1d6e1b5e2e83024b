"""The end of a generation: from decoded frames to checked and stored files. It must not depend on torch."""
