"""Code for other machines, run in emulators."""
