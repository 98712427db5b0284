"""Make, serve and judge a chatbot: from shared chats to a fine-tuned model, a fleet that serves it, and a report."""

__version__ = "0.1.0.dev0"
