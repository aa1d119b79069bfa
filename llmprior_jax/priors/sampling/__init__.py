"""What a language model writes when asked what it would do."""
