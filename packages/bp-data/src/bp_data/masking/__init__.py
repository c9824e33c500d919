"""A conversation as text, and which of its tokens are learned."""
