"""Why answers are wrong: the mistakes that predict them."""
