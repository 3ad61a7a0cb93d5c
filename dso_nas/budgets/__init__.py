"""What a network may cost, and how it is brought there."""
