-- A day's events, all at once.
drop table public.{partition}
