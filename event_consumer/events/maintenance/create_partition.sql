-- A table like events, indexes and all, that nobody else sees yet.
create table public.{partition} (like public.events including all excluding comments)
