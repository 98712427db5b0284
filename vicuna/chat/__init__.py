"""The terminal client: talk to a model behind any OpenAI-compatible address."""
