"""One module a screen: its pages, and what the page asks and changes there."""
