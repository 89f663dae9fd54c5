-- The table becomes a partition; its indexes become parts of those of events.
alter table public.events attach partition public.{partition} for values from ('{lower}') to ('{upper}')
