"""Write copies of models' weights in the form in which they are loaded. It must never import torch: a child does."""
