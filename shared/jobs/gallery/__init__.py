"""The gallery of finished videos: windows of it, favourites and collections. Each favourite belongs to one API key."""
