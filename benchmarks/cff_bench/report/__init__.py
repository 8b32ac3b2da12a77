"""What every measurement hands over, and how it is read: terminal, Markdown, HTML, JSON."""
