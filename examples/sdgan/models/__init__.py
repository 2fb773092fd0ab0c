"""The networks, and their weights as files."""
