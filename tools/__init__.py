"""What a person runs beside the services: the local stack, migrations, sample events."""
