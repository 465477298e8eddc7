"""`loralab grid`: pictures of finished adapters, by strength, checkpoint, prompt and seed, on one labelled sheet."""
