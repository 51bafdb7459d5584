"""Documents made from the code; a test holds them to it."""
