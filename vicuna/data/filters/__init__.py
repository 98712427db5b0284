"""Which rounds and chats may be trained on: order of turns, quality, toxicity, language, personal data."""
