"""How the embedded checkpoint comes about: its corpus, tokenizer and training."""
