"""What the measurements share: bare counterparts to compare with, processes, rows and servers."""
