"""A first schema for logs that nobody has described: `write` tells what `sample`, `columns`, `roles`, `leaks`, `kinds` see."""
