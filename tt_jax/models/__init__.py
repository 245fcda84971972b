"""The models: embeddings, cross layers, experts, towers. They know schema and config, no mesh and no optimizer."""
