"""Both workers under more load than they can take, and over a long time."""
