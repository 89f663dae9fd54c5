"""The SQL of partitions, retention and the rebuilding of rollups. Names in braces are filled in: DDL takes no parameters."""
