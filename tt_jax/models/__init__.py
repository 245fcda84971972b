"""The models: embeddings, cross layers, experts, towers. They know the schema and the config, no mesh and no optimizer."""
