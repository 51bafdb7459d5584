"""The collections: their schemas and indexes, and the opening of existing or missing ones."""
