-- The events of these days have changed.
insert into public.day_versions as known (day, slot, version)
select day::date, $2, 1 from unnest($1::text[]) as new (day)
on conflict (day, slot) do update set version = known.version + 1
