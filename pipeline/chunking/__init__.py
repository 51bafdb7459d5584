"""From a document's text to chunks of token ids that cover it. Pure."""
