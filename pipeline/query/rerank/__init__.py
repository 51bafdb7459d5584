"""Reranking: the best candidates of a search in the order in which a reranker puts them."""
