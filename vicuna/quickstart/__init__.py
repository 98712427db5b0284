"""The whole house on one laptop: raw pages, cleaning, a tokenizer, a base model, fine-tuning, serving, judging.

Every stage runs as the command that a user would type, and knows by itself whether its work is done already.
"""
