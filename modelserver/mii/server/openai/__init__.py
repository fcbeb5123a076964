"""OpenAI's HTTP API: completions, chat completions, models."""
