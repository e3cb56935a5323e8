"""What an attention with other conventions, or with mistakes, would answer."""
