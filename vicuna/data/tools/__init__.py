"""Small commands on conversations: look at them, draw, split, merge, convert and pick them, and make identity ones."""
