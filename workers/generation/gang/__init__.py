"""One generation on several devices: the processes of a gang. Importing this package loads no torch."""
