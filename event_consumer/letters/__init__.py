"""Dead letters: the one table, its copy on a topic, and what people do with them."""
