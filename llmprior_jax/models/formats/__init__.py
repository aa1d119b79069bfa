"""The formats that checkpoints are in, and the places where they are."""
