"""Problems drawn at random, for `strategies`."""
