"""Request and response models of the API, one module for each subject. Must not know how they are filled."""
