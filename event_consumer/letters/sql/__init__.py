"""Statements on ``public.dead_letters``."""
