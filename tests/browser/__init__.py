"""The page in a real Chromium: `make test-browser`. Not part of `make test`: it needs a browser."""
