"""One run: its folder, its model, and what it reads and is asked."""
