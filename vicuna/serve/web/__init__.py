"""The chat page: an ordinary client of the OpenAI-compatible API."""
