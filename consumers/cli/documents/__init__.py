"""The commands `documents …`: one document as it is stored, where it is, and those similar to it."""
