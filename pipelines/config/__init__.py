"""What the user asks for: the schema, how a config is read, and the objects its names stand for."""
