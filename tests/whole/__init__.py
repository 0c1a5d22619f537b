"""What holds for all rooms, and whole models."""
