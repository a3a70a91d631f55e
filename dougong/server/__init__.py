"""OpenAI's forms: Chat Completions over HTTP and in batch files, answered by one engine."""
