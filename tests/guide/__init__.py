"""What README.md and the pages of the guide say."""
