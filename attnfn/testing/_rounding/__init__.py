"""How far off a right result may be, and what is said of one that is further."""
