"""Other programs open a collection made here: `make test-integrations`."""
