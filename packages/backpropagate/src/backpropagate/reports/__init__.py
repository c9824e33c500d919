"""A document as Markdown and HTML, its charts, and a run's report."""
