"""What runs where models are trained."""
