"""Files of models, sound and broken."""
