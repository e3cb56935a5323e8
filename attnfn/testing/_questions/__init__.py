"""What a function is asked: cases on which conventions and mistakes are far apart."""
