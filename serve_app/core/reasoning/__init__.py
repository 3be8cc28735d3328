"""A request's tokens between reasoning and answer, and the prompt rules of reasoning models."""
