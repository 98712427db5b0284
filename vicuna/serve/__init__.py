"""Serving: a controller that is the OpenAI-compatible gateway, workers that come and go, and a web page."""
