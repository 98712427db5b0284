"""The fleet of workers: who is in it, who gets the next request, and what happens when one fails."""
