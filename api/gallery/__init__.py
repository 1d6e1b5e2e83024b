"""The gallery: finished videos, favourites and collections."""
