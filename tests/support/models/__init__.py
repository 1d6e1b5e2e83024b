"""Models for tests: catalogues, weights, libraries, downloads and generations."""
