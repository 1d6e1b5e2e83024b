"""The model library as a whole: status, cleanup plans, fallbacks, recommendations. It decides; others carry out."""
